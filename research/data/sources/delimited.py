"""Tables as text (RFC 4180), separated by commas, semicolons, tabs or bars, as their header shows.

Values stay as they stand, but for columns of numbers in the notations of spreadsheets: "0,5" is 0.5 where semicolons
separate, and "1,000" is 1000 where commas do, if every value of its column is such a number.
"""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from research.core.errors import UserError, listed
from research.core.files import shown
from research.data.cells import NUMBER, is_missing
from research.data.sources.containers import suffix_of
from research.data.sources.text import text_of

DELIMITERS = ",\t;|"
SAMPLE = 20  # lines that decide about the delimiter
DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?", re.ASCII)
THOUSANDS = re.compile(r"[+-]?(0,000|[1-9]\d{0,2}(,\d{3})+)(\.\d+)?", re.ASCII)


def read_delimited(path: Path) -> dict[str, list[str]]:
    """Returns the values of each column, in the order of the file.

    Columns without a name are called "Unnamed: 0" and so on by their position, as pandas calls them.

    Raises:
        UserError: the file is unreadable, has no rows, repeats a column name, or line N has too few or many values.
    """
    text = text_of(path)
    delimiter = delimiter_of(text[:65_536], "\t" if suffix_of(path) in (".tsv", ".tab") else ",")
    header, rows = _rows(path, text, delimiter)
    del text
    names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(header)]
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise UserError(
            f"{shown(path)}: the header names {listed(map(repr, repeated))} more than once; give each column its own "
            "name."
        )
    if not rows:  # the text may be empty but for quotes, and the header then too
        raise UserError(f"{shown(path)} has a header but no rows; give a file with data.")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    if not header[-1].strip() and len(header) > 1 and not any(columns[names[-1]]):
        del columns[names[-1]]  # every line ends with the delimiter
    return {name: _plain_numbers(values, delimiter) for name, values in columns.items()}


def delimiter_of(text: str, default: str = ",") -> str:
    """Returns what separates the columns, by the header and the lines after it.

    Args:
        text: the file's beginning.
        default: the delimiter of a table of one column.

    >>> delimiter_of("age;income;label\\n1;0,5;a\\n2;1,5;b\\n")
    ';'
    """
    lines = re.split(r"\r\n|\n|\r", text, maxsplit=SAMPLE)[:SAMPLE]
    sizes = {delimiter: _sizes(lines, delimiter) for delimiter in (default, *DELIMITERS.replace(default, ""))}
    # First those by which every line seen has as many values as the header, then those that give more columns.
    return max(sizes, key=lambda each: (sizes[each][0] > 1, len(set(sizes[each])) == 1, sizes[each][0]))


def _sizes(lines: Sequence[str], delimiter: str) -> list[int]:
    reader, sizes = csv.reader([line + "\n" for line in lines], delimiter=delimiter), []
    try:
        sizes += [len(row) for row in reader if row]
    except csv.Error:  # found again, with its line, where the file is read
        sizes.append(-1)
    return sizes[:-1] if len(sizes) > 2 else sizes or [0]  # the last may be cut


def _rows(path: Path, text: str, delimiter: str) -> tuple[list[str], list[list[str]]]:
    csv.field_size_limit(sys.maxsize)  # the file is in memory already
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    separator = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}[delimiter]
    rows = []
    try:
        header = next((row for row in reader if not _is_blank(row)), [])
        for row in reader:
            if not row or (len(header) > 1 and _is_blank(row)):
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{shown(path)}, line {reader.line_num}: found {len(row)} values where the header has "
                    f"{len(header)} columns, separated by {separator}; fix the line (a value with the separator or a "
                    "line break needs double quotes)."
                )
            if delimiter == "\t" and any("\t" in value and "\n" in value for value in row):
                raise UserError(
                    f"{shown(path)}, line {reader.line_num}: a quote opened before runs over several lines here; write "
                    "quotes of the text twice and put the value in quotes, or use JSON lines."
                )
            rows.append(row)
    except csv.Error as error:
        raise UserError(
            f"{shown(path)}, line {reader.line_num}: {_clear(str(error))}; fix the quotes there (a quote in a quoted "
            "value is written twice), or use JSON lines."
        ) from None
    return header, rows


def _is_blank(row: Sequence[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def _clear(message: str) -> str:
    return message.replace("'\t'", "a tab")


def _plain_numbers(values: Sequence[str], delimiter: str) -> list[str]:
    """Returns the values of a column, its numbers written with a decimal point and nothing between thousands."""
    form, mark = {",": (THOUSANDS, ""), ";": (DECIMAL_COMMA, ".")}.get(delimiter, (NUMBER, ","))
    if any("," in value for value in values) and all(_is_in_form(value, form) for value in values):
        return [value.replace(",", mark) for value in values]
    return list(values)


def _is_in_form(value: str, form: re.Pattern[str]) -> bool:
    text = value.strip()
    return bool(form.fullmatch(text) or NUMBER.fullmatch(text) or is_missing(text))
