"""Documents and records from files of any format, each with the place that it was read from.

`records_of` yields one record after another; `read_documents` is for language models, which also read running text.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from research.core.errors import UserError, listed
from research.core.files import shown
from research.data.cleaning.cleaning import Document, content_group
from research.data.sources.arrow import arrow_columns
from research.data.sources.delimited import read_delimited
from research.data.sources.files import matching_files
from research.data.sources.formats import Format, format_of
from research.data.sources.json_records import Record, json_array, json_lines
from research.data.sources.text import sections, text_of


def read_records(paths: Sequence[str]) -> list[tuple[str, Record]]:
    """Reads the records of files and patterns, one after another, as (place, record); `place` is for messages.

    The values of a table of text are strings; those of JSON, Parquet and Arrow have their types.

    Raises:
        UserError: a file is missing, damaged, or holds no records.
    """
    return [placed for file in matching_files(paths) for placed in records_of(file, format_of(file))]


def records_of(file: Path, kind: Format) -> Iterator[tuple[str, Record]]:
    """Yields (place, record) for each record of one file."""
    match kind:
        case Format.JSON_LINES:
            yield from json_lines(file)
        case Format.JSON_ARRAY:
            yield from json_array(file)
        case _:
            name, number = shown(file), 0
            for columns in [read_delimited(file)] if kind is Format.DELIMITED else arrow_columns(file, kind):
                for row in zip(*columns.values(), strict=True):
                    number += 1
                    yield f"{name}:row {number}", dict(zip(columns, row, strict=True))


def read_documents(paths: Sequence[str], text: str = "text", group: str = "") -> list[Document]:
    """Reads documents: each record of a table or of JSON is one, and each section of running text.

    Args:
        paths: files or patterns; `**` stands for any folders.
        text: the field or column that holds the text.
        group: the one that names the group which a split keeps together; empty where each document stands alone.

    Raises:
        UserError: a file is missing, empty, binary or damaged, or a record has no such text.
    """
    documents: list[Document] = []
    for file in matching_files(paths):
        if (kind := format_of(file, [text])) is Format.TEXT:
            documents += _sections(file)
        else:
            documents += [_document(key, record, text, group) for key, record in records_of(file, kind)]
    return documents


def _sections(file: Path) -> list[Document]:
    name = shown(file)
    return [
        Document(f"{name}:section {number:05d}", content_group(section), section)
        for number, section in enumerate(sections(text_of(file)), start=1)
    ]


def _document(key: str, record: Record, text: str, group: str) -> Document:
    if missing := [name for name in ([text, group] if group else [text]) if name not in record]:
        raise UserError(f"{key}: no field {missing[0]!r}; it has {listed(record)}: name one of those.")
    value: Any = record[text]
    if not isinstance(value, str):
        raise UserError(f"{key}: the field {text!r} is {type(value).__name__}, not a string; fix it.")
    return Document(key, str(record[group]) if group else content_group(value), value)
