"""A mesh, and the blocks that it cuts an array into, drawn for the terminal with the devices' numbers.

Devices are numbered as they stand in the mesh. Of long rows and columns the ends are shown, so that a picture of 512
devices fits the screen as one of eight does.
"""

import itertools
from collections.abc import Sequence
from typing import TypeVar

from jax.sharding import Mesh, NamedSharding

from research.core.mesh import BATCH_AXES

T = TypeVar("T")
DOWN, ACROSS = 4, 8  # rows and columns that are drawn before some are left out


def draw_mesh(mesh: Mesh) -> str:
    """Returns the devices in a table: the axes that split the batch go down, the others across."""
    split = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    rows = _labels(mesh, [axis for axis in split if axis in BATCH_AXES])
    columns = _labels(mesh, [axis for axis in split if axis not in BATCH_AXES])
    cells = [[str(row * len(columns) + column) for column in range(len(columns))] for row in range(len(rows))]
    return _grid(cells, rows, columns)


def draw_blocks(shape: Sequence[int], sharding: NamedSharding) -> str:
    """Returns the blocks of an array, each with the devices that hold it.

    The last two axes that are split are drawn, one going down and one across; of any split axis before them only the
    first part.
    """
    holders = _holders(shape, sharding)
    starts = [sorted({block[axis] for block in holders}) for axis in range(max(2, len(shape)))]
    split_last = sorted(range(len(starts)), key=lambda axis: (len(starts[axis]) > 1, axis))
    down, across = sorted(split_last[-2:])

    def cell(row: int, column: int) -> str:
        return _numbers(holders[tuple({down: row, across: column}.get(axis, 0) for axis in range(len(starts)))])

    return _grid([[cell(row, column) for column in starts[across]] for row in starts[down]])


def _holders(shape: Sequence[int], sharding: NamedSharding) -> dict[tuple[int, ...], list[int]]:
    """Returns the numbers of the devices that hold each block, by the block's start along its axes, two or more."""
    numbers = {device: number for number, device in enumerate(sharding.mesh.devices.flat)}
    holders: dict[tuple[int, ...], list[int]] = {}
    for device, block in sharding.devices_indices_map(tuple(shape)).items():
        start = (0,) * (2 - len(block)) + tuple(part.start or 0 for part in block)
        holders.setdefault(start, []).append(numbers[device])
    return {block: sorted(devices) for block, devices in holders.items()}


def _numbers(devices: Sequence[int]) -> str:
    """Names devices: one by its number, several at equal distances by the first two and the last."""
    distances = {after - before for before, after in itertools.pairwise(devices)}
    if len(devices) <= 2:
        return ", ".join(map(str, devices))
    if distances == {1}:
        return f"{devices[0]}-{devices[-1]}"
    return f"{devices[0]}, {devices[1]}, … {devices[-1]}"


def _labels(mesh: Mesh, axes: Sequence[str]) -> list[str]:
    """Names every place along some axes of the mesh; the last axis runs fastest."""
    places = itertools.product(*(range(mesh.shape[axis]) for axis in axes))
    return [" ".join(f"{axis} {index}" for axis, index in zip(axes, place, strict=True)) for place in places]


def _grid(cells: list[list[str]], rows: Sequence[str] = (), columns: Sequence[str] = ()) -> str:
    """Draws a box around every cell, with labels at the left and above where there are any."""
    table = [_shortened(row, ACROSS, "…") for row in _shortened(cells, DOWN, ["⋮"] * len(cells[0]))]
    left = _shortened(rows or [""] * len(cells), DOWN, "")
    above = _shortened(columns or [""] * len(cells[0]), ACROSS, "")
    width = max(len(text) for text in (*above, *itertools.chain(*table)))
    indent = max(map(len, left))

    def rule(start: str, between: str, end: str) -> str:
        return " " * indent + start + between.join(["─" * (width + 2)] * len(above)) + end

    def line(label: str, row: Sequence[str]) -> str:
        return f"{label:>{indent}}│" + "".join(f" {text:^{width}} │" for text in row)

    head = [" " * indent + "".join(f"  {text:^{width}} " for text in above)] if any(above) else []
    body = f"\n{rule('├', '┼', '┤')}\n".join(map(line, left, table))
    return "\n".join([*head, rule("┌", "┬", "┐"), body, rule("└", "┴", "┘")])


def _shortened(items: Sequence[T], max_items: int, gap: T) -> list[T]:
    """Returns the items, or where there are more than `max_items` the first of them, a gap and the last."""
    return list(items) if len(items) <= max_items else [*items[: max_items - 2], gap, items[-1]]
