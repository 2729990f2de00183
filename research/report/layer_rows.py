"""The table of layers, in which consecutive equal blocks are one row: `block_0…3/attention`, four times."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

FLOPS_UNITS = ((1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"), (1e3, "kFLOPs"))
NUMBERED = re.compile(r"(.*?)(?<!\d)(\d{1,9})(?!\d)(.*)", re.DOTALL)  # longer ones count no layers

Row = tuple[str, int, int]  # path, parameters, FLOPs


class LayerRow(NamedTuple):
    """A row: what one layer has, how many there are like it, and its meters as shares of the largest."""

    path: str
    times: int
    parameters: str
    flops: str
    parameters_share: float
    flops_share: float


class Layers(NamedTuple):
    """The table: rows, totals over all layers, the unit of the FLOPs."""

    rows: list[LayerRow]
    parameters: str
    flops: str
    unit: str

    @property
    def folded(self) -> bool:
        """Whether a row stands for several layers."""
        return any(row.times > 1 for row in self.rows)


class Block(NamedTuple):
    """Consecutive rows whose paths begin alike, up to and with a number."""

    prefix: str
    number: int | None
    last: int | None
    rows: tuple[Row, ...]


def layers(record: Mapping[str, Any]) -> Layers:
    """Returns the table of layers of a record, all FLOPs in the unit that suits their sum."""
    found: list[Row] = [
        (row["path"], row["parameters"], row["flops"]) for row in record.get("model", {}).get("layers", [])
    ]
    total_parameters, total_flops = sum(row[1] for row in found), sum(row[2] for row in found)
    size, unit = next(((size, unit) for size, unit in FLOPS_UNITS if total_flops >= size), (1, "FLOPs"))
    digits = 2 if size > 1 else 0
    max_parameters = max((row[1] for row in found), default=0) or 1
    max_flops = max((row[2] for row in found), default=0) or 1
    rows = [
        LayerRow(path, times, f"{count:,}", f"{work / size:,.{digits}f}", count / max_parameters, work / max_flops)
        for (path, count, work), times in fold(found)
    ]
    return Layers(rows, f"{total_parameters:,}", f"{total_flops / size:,.{digits}f}", unit)


def fold(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """Returns rows with how often they occur, equal blocks as one whose number is a range.

    >>> fold([("block_0/norm", 8, 0), ("block_1/norm", 8, 0), ("head", 64, 128)])
    [(('block_0…1/norm', 8, 0), 2), (('head', 64, 128), 1)]
    """
    folded: list[tuple[Row, int]] = []
    for block in _merged(_blocks(rows)):
        if block.number is None or block.last is None:
            folded += [(row, 1) for row in block.rows]
            continue
        times = block.last - block.number + 1
        place = f"{block.prefix}{block.number}" + (f"…{block.last}" if times > 1 else "")
        folded += [((place + path, count, work), times * inner) for (path, count, work), inner in fold(block.rows)]
    return folded


def _blocks(rows: Sequence[Row]) -> Iterator[Block]:
    """Yields the rows in runs of one prefix and number, without those; rows without a number as they are."""
    begun: list[Row] = []
    key: tuple[str, int | None] = ("", None)
    for path, count, work in rows:
        parts = NUMBERED.fullmatch(path)
        own, rest = ((parts[1], int(parts[2])), parts[3]) if parts else (("", None), path)
        if begun and own != key:
            yield Block(key[0], key[1], key[1], tuple(begun))
            begun = []
        key = own
        begun.append((rest, count, work))
    if begun:
        yield Block(key[0], key[1], key[1], tuple(begun))


def _merged(blocks: Iterator[Block]) -> list[Block]:
    """Joins blocks that follow one another in number and are equal."""
    merged: list[Block] = []
    for block in blocks:
        before = merged[-1] if merged else None
        if (
            before is not None
            and before.last is not None
            and block.number == before.last + 1
            and (before.prefix, before.rows) == (block.prefix, block.rows)
        ):
            merged[-1] = before._replace(last=block.number)
        else:
            merged.append(block)
    return merged
