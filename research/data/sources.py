"""Your own data from paths: text files, JSON lines and CSV tables.

Each reader returns plain values (documents, records, columns) and refuses what it cannot read with one
sentence that names the file, the place in it and the remedy.
"""

import csv
import glob
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from research.core.errors import UserError
from research.data.cleaning.cleaning import Document, content_group

SECTION = 4000  # characters


def read_text(paths: Sequence[str]) -> list[Document]:
    """Reads text files, divided into sections so that few files can be split too; each section is its own group.

    A section ends at the first blank line after 4,000 characters, or at a line end after 8,000; a file's sections
    joined are the file. Files added, or text added at the end, leave the earlier sections on their side of the split.

    Args:
        paths: files or globs; `**` stands for any folders.

    Raises:
        UserError: a file is missing, empty, binary or not UTF-8.
    """
    return [
        Document(f"{file}:section {number:05d}", content_group(section), section)
        for file in matching_files(paths)
        for number, section in enumerate(sections(_text_of(file)), start=1)
    ]


def sections(text: str) -> Iterator[str]:
    """Yields the sections that `read_text` makes of one file."""
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line)
        if size >= 2 * SECTION or (size >= SECTION and not line.strip()):
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def read_json_lines(paths: Sequence[str], text: str = "text", group: str = "") -> list[Document]:
    """Reads files of one JSON object a line, each line a document.

    Args:
        paths: files or globs.
        text: field that holds the text.
        group: field that names the group that a split keeps together; empty where each line stands alone.

    Raises:
        UserError: names file and line of anything that is not an object with these fields.
    """
    documents = []
    for file in matching_files(paths):
        for number, line in enumerate(_text_of(file).split("\n"), start=1):
            if line.strip():
                key = f"{file}:{number}"
                record = _json_record(line, key, [text, group] if group else [text])
                documents.append(
                    Document(key, str(record[group]) if group else content_group(record[text]), record[text])
                )
    return documents


def read_table_text(path: str, text: str = "text", group: str = "") -> list[Document]:
    """Reads documents from a CSV file: column `text`, and column `group` where one names the groups.

    Raises:
        UserError: as `read_table`, or a column is missing.
    """
    table = read_table(path)
    for column in (text, group) if group else (text,):
        if column not in table:
            raise UserError(f"{path} has no column {column!r}; it has {', '.join(table)}: name one of those.")
    keys = [f"{path}:row {number}" for number, _ in enumerate(table[text], start=1)]
    groups = table[group] if group else [content_group(value) for value in table[text]]
    return [Document(*row) for row in zip(keys, groups, table[text], strict=True)]


def read_table(path: str) -> dict[str, list[str]]:
    """Reads a CSV file with a header line (RFC 4180; tabs instead of commas where the name ends in `.tsv`).

    Returns:
        {column name: values}, columns and rows in the file's order.

    Raises:
        UserError: the file is unreadable, has no rows, repeats a column name, or line N has too few or many values.
    """
    file = matching_files([path])[0]
    lines = io.StringIO(_text_of(file), newline="")
    reader = csv.reader(lines, strict=True, delimiter="\t" if file.suffix == ".tsv" else ",")
    rows = []
    try:
        header = next(reader)
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: found {len(row)} values where the header has {len(header)} "
                    "columns; fix the line (a value with a comma or a line break needs double quotes)."
                )
            if row:
                rows.append(row)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}; fix the quotes there, or use JSON lines for very long values."
        ) from None
    if repeated := {name for name in header if header.count(name) > 1}:
        raise UserError(f"{path}: the header names {sorted(repeated)} more than once; give each column its own name.")
    if not rows:
        raise UserError(f"{path} has a header but no rows; give a file with data.")
    return {name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}


def read_records(paths: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Reads the rows of tables (.csv, .tsv) and the objects of JSON lines (.jsonl, .ndjson) as (place, record).

    The values of a table are strings; `place` names file and row for messages.

    Raises:
        UserError: as `read_table`, a line is no JSON object or holds half a surrogate pair, or a file is of another
            kind.
    """
    records: list[tuple[str, dict[str, Any]]] = []
    for file in matching_files(paths):
        match file.suffix.lower():
            case ".csv" | ".tsv":
                table = read_table(str(file))
                rows = zip(*table.values(), strict=True)
                records += [
                    (f"{file}:row {number}", dict(zip(table, row, strict=True)))
                    for number, row in enumerate(rows, start=1)
                ]
            case ".jsonl" | ".ndjson":
                for number, line in enumerate(_text_of(file).split("\n"), start=1):
                    if line.strip():
                        key = f"{file}:{number}"
                        record = _json_object(line, key)
                        _check_surrogates(record, line, key)
                        records.append((key, record))
            case suffix:
                raise UserError(f"{file} ends in {suffix!r}: give a table (.csv, .tsv) or JSON lines (.jsonl).")
    return records


def matching_files(paths: Sequence[str]) -> list[Path]:
    """Resolves files and globs, each file once; raises UserError for a name that matches no file."""
    files: dict[Path, None] = {}
    for path in paths:
        matches = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True))
        found = [Path(match) for match in matches if Path(match).is_file()]
        if not found:
            what = "is a folder" if Path(path).is_dir() else "matches no file"
            raise UserError(f"{path} {what}; name a file, or files with a pattern in quotes such as 'books/*.txt'.")
        files.update(dict.fromkeys(found))
    if not files:
        raise UserError("No data files were named; give at least one path, such as 'books/*.txt'.")
    return list(files)


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {path}.")
    if (offset := data.find(b"\0")) >= 0:
        raise UserError(f"{path} is binary, not text (a zero byte at offset {offset}); give a UTF-8 text file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start}, line {line}); "
            f"convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 {path}."
        ) from None
    if not text.strip():
        raise UserError(f"{path} is empty; give a file with text.")
    return text


def _json_object(line: str, key: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{key}: not JSON ({error}); give one JSON object on each line.") from None
    if not isinstance(record, dict):
        raise UserError(f"{key}: found {type(record).__name__}, not an object; give one JSON object on each line.")
    return record


def _json_record(line: str, key: str, fields: Sequence[str]) -> dict[str, str]:
    record = _json_object(line, key)
    if missing := [field for field in fields if field not in record]:
        raise UserError(f"{key}: no field {missing[0]!r}; it has {', '.join(record) or 'none'}: name one of those.")
    text = record[fields[0]]
    if not isinstance(text, str):
        raise UserError(f"{key}: the field {fields[0]!r} is {type(text).__name__}, not a string; fix the line.")
    _check_surrogates(text, line, key)
    return record


def _check_surrogates(value: Any, line: str, key: str) -> None:
    if "\\u" not in line:  # a file in UTF-8 has surrogates only as escapes
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{key}: the text holds half of a surrogate pair (\\ud800 to \\udfff); fix the line's escapes."
        ) from None
