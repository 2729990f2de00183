"""Parquet and Arrow by pyarrow: files, streams, and folders that Hugging Face `datasets` saved, batch by batch.

pyarrow takes half a second to import, which only those pay who bring such a file. What it reads is checked by its own
full validation before a value is used.
"""

import datetime
import decimal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from research.core.errors import UserError, listed
from research.core.files import regular_size, shown
from research.core.json_files import parse_json
from research.data.sources.containers import check_expanded, chunks, compression, max_expanded
from research.data.sources.files import saved_parts
from research.data.sources.formats import Format

BATCH = 8192  # rows
ROW_COST, CELL_COST = 200, 40  # bytes that Python needs, of which a quarter counts as expansion
Columns = dict[str, list[Any]]


def arrow_columns(path: Path, kind: Format) -> Iterator[Columns]:
    """Yields the columns of each batch of rows as plain values; dates and times as ISO 8601, nothing as None.

    Raises:
        UserError: the file is damaged or cut short, has no rows, repeats a column name, or expands beyond all measure.
    """
    parts = saved_parts(path) if kind is Format.SAVED_FOLDER else [path]
    rows = 0
    for part in parts:
        for columns in _part_columns(part, Format.ARROW_STREAM if kind is Format.SAVED_FOLDER else kind):
            rows += len(next(iter(columns.values()), []))
            yield columns
    if not rows:
        raise UserError(f"{shown(path)} has no rows; give a file with data.")


def _part_columns(path: Path, kind: Format) -> Iterator[Columns]:
    import pyarrow

    limit, total = max_expanded(regular_size(path)), 0
    try:
        with _source(path) as source:
            for batch in _batches(source, kind):
                total += batch.nbytes + batch.num_rows * (ROW_COST + CELL_COST * batch.num_columns) // 4
                check_expanded(path, total, limit)
                names = batch.schema.names
                if len(set(names)) < len(names):
                    raise UserError(f"{shown(path)} names a column twice ({listed(names)}); rename one.")
                batch.validate(full=True)
                classes = _class_names(path, batch.schema.metadata or {})
                yield {
                    name: _values(column, classes.get(name)) for name, column in zip(names, batch.columns, strict=True)
                }
    except (pyarrow.ArrowException, OSError, ValueError, NotImplementedError, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{shown(path)} cannot be read as {kind.value} ({reason}): write it again.") from None


def _source(path: Path) -> Any:
    import pyarrow

    if compression(path):  # what is inside needs jumps
        return pyarrow.BufferReader(b"".join(chunks(path)))
    return pyarrow.OSFile(str(path), "rb")


def _batches(source: Any, kind: Format) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    match kind:
        case Format.PARQUET:
            yield from parquet.ParquetFile(source).iter_batches(batch_size=BATCH, use_threads=False)
        case Format.ARROW_FILE:
            reader = pyarrow.ipc.open_file(source)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        case _:
            yield from pyarrow.ipc.open_stream(source)


def _values(column: Any, names: list[str] | None) -> list[Any]:
    """Returns the values of a column: numbers, text, lists and mappings of them, or None."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_timestamp(column.type):  # Python has no nanoseconds
        column = column.cast(pyarrow.timestamp("us", column.type.tz), safe=False)
    values = column.to_pylist()
    if names is not None:
        return [names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values]
    kind = column.type
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return values
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    match value:
        case float():
            return None if value != value else value
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return float(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return value
        case list():
            return [_plain(each) for each in value]
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case _:
            return value


def _class_names(path: Path, metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Returns the names of the classes that `datasets` has noted for columns of whole numbers."""
    note = metadata.get(b"huggingface")
    found = parse_json(note.decode(errors="replace"), f"{shown(path)}, metadata") if note else {}
    info = found.get("info") if isinstance(found, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    if not isinstance(features, dict):
        return {}
    return {
        name: [str(each) for each in feature["names"]]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }
