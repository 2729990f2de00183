"""The format of a file, by its content: the suffix decides only between readings that the content allows alike.

Parquet and Arrow open with bytes of their own; JSON with a bracket and a quote. Any other text is a table where the
reader asks for records, and where it asks for text, a table only if the name or the header says so.
"""

import csv
import json
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from research.core.errors import UserError
from research.core.files import shown
from research.data.sources.containers import chunks, suffix_of
from research.data.sources.delimited import delimiter_of

HEAD = 65_536  # bytes that decide
JSON_LINES, TABLES = (".jsonl", ".ndjson"), (".csv", ".tsv", ".tab")
FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV",
    b"%PDF": "a PDF: save its text",
    b"SQLite format 3": "an SQLite database: export a table as CSV",
    b"\x89HDF": "an HDF5 file: export it as CSV or Parquet",
    b"\x93NUMPY": "a NumPy array: export it as CSV or Parquet",
    b"ORC": "an ORC file: convert it to Parquet",
    b"Obj\x01": "an Avro file: convert it to Parquet",
}


class Format(Enum):
    """What a file holds."""

    TEXT = "text"
    JSON_LINES = "JSON lines"
    JSON_ARRAY = "a JSON array"
    DELIMITED = "a table"
    PARQUET = "Parquet"
    ARROW_FILE = "an Arrow file"
    ARROW_STREAM = "an Arrow stream"
    SAVED_FOLDER = "a saved data set"


def format_of(path: Path, text_columns: Sequence[str] = ()) -> Format:
    """Returns the format of a file or a saved folder.

    Args:
        path: as `matching_files` gives it.
        text_columns: where the file may be running text: the columns that would make a table of it.

    Raises:
        UserError: the file is unreadable, or of a format that is known and not read.
    """
    if path.is_dir():
        return Format.SAVED_FOLDER
    head = next(chunks(path, HEAD), b"")
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    if head.startswith(b"ARROW1\0\0"):
        return Format.ARROW_FILE
    if head.startswith(b"\xff\xff\xff\xff"):
        return Format.ARROW_STREAM
    for magic, what in FOREIGN.items():
        if head.startswith(magic) and (b"\0" in head or magic == b"%PDF"):
            raise UserError(f"{shown(path)} is {what}.")
    suffix, text = suffix_of(path), head.decode("utf-8-sig", errors="replace").lstrip()
    if re.match(r"\[\s*[{\]]", text) or (suffix == ".json" and text.startswith("[")):
        return Format.JSON_ARRAY
    if suffix in JSON_LINES or _opens_with_object(text, whole=len(head) < HEAD):
        return Format.JSON_LINES
    if suffix == ".json":
        raise UserError(
            f"{shown(path)} is no array of objects and no JSON lines: give [{{...}}, ...] or one object on each line."
        )
    if text_columns and suffix not in TABLES and not _has_header(text, text_columns):
        return Format.TEXT
    return Format.DELIMITED


def _opens_with_object(text: str, *, whole: bool) -> bool:
    """Whether the first line is a JSON object, as far as it can be seen."""
    if not re.match(r'\{\s*["}]', text):
        return False
    line, end, _ = text.partition("\n")
    try:
        json.loads(line, parse_int=float)
    except json.JSONDecodeError:
        return not (end or whole)
    except RecursionError:
        return True  # and refused where it is read
    return True


def _has_header(text: str, columns: Sequence[str]) -> bool:
    """Whether the first line names all the columns, and the second has as many values."""
    delimiter = delimiter_of(text)
    lines = [line for line in text.split("\n")[:-1] if line.strip()][:2]
    try:
        header, values = csv.reader(lines, delimiter=delimiter)
    except (csv.Error, ValueError):
        return False
    return len(header) == len(values) > 1 and set(columns) <= {name.strip() for name in header}
