"""The columns of a table from files of any format, for data whose rows become numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from research.core.errors import UserError, listed
from research.core.files import shown
from research.data.sources.arrow import arrow_columns
from research.data.sources.delimited import read_delimited
from research.data.sources.files import matching_files
from research.data.sources.formats import Format, format_of
from research.data.sources.records import records_of

MAX_CELLS = 10_000_000  # that no record has given: objects of ever new keys would make a table of their square


def read_table(path: str) -> dict[str, list[Any]]:
    """Reads a table from a file, or from several by a pattern, one after another.

    The values of a table of text are strings. A field that a JSON object lacks is None.

    Returns:
        {column name: values}, columns and rows in the files' order.

    Raises:
        UserError: a file is missing, damaged, holds no table, or has other columns than the first.
    """
    columns: dict[str, list[Any]] = {}
    for file in matching_files([path]):
        match format_of(file):
            case Format.DELIMITED as kind:
                parts: Iterable[Mapping[str, Sequence[Any]]] = [read_delimited(file)]
            case Format.JSON_LINES | Format.JSON_ARRAY as kind:
                parts = [_of_records(shown(file), [record for _, record in records_of(file, kind)])]
            case kind:
                parts = arrow_columns(file, kind)
        for part in parts:
            if columns and columns.keys() != part.keys():
                odd = sorted(columns.keys() ^ part.keys())
                raise UserError(f"{shown(file)} differs in the columns {listed(odd)} from the files before it.")
            for name, values in part.items():
                columns.setdefault(name, []).extend(values)
    return columns


def _of_records(place: str, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for record in records for name in record)
    if not names:
        raise UserError(f"{place} has no fields; give objects with some.")
    if len(names) * len(records) - sum(map(len, records)) > MAX_CELLS:
        raise UserError(
            f"{place} has {len(names):,} different fields in {len(records):,} records, such as {listed(names)}: give "
            "each record the same fields."
        )
    return {name: [record.get(name) for record in records] for name in names}
