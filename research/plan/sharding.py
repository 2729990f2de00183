"""Where every parameter will live: a table of shapes, specifications and bytes on each device; nothing is allocated.

Equal parameters of several blocks share a line, and axes that a rule would split but the mesh does not divide are
pointed out. `show_sharding` prints it with pictures of the mesh, of the batch and of the largest parameters.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.core import trees
from research.core.mesh import bytes_per_device, shard_bytes
from research.plan.diagrams import draw_blocks, draw_mesh
from research.plan.memory import abstract_batch
from research.train.experiment import Assembly

PICTURES = 3  # of the largest parameters, each split in another way


@dataclasses.dataclass(frozen=True)
class Line:
    """Parameters of one shape and specification, whose paths differ in numbers only."""

    path: str
    shape: tuple[int, ...]
    sharding: NamedSharding
    count: int
    bytes_per_device: int
    replicated_axes: tuple[str, ...]
    """sentences on axes that stay whole against the rule"""


def sharding_lines(assembly: Assembly) -> list[Line]:
    """Returns the lines of the table, in the order of the parameters."""
    params = trees.flatten(assembly.state.merged)
    shardings = trees.flatten(assembly.shardings.params)
    wanted = trees.flatten(trees.match_rules(assembly.sharding_rules, assembly.state.merged, what="sharding"))
    groups: dict[Any, list[str]] = {}
    for path, leaf in params.items():
        groups.setdefault((re.sub(r"_\d+", "_#", path), leaf.shape, str(shardings[path].spec)), []).append(path)
    return [
        Line(
            path=_joined(paths),
            shape=params[paths[0]].shape,
            sharding=shardings[paths[0]],
            count=len(paths),
            bytes_per_device=sum(shard_bytes(params[path], shardings[path]) for path in paths),
            replicated_axes=tuple(_left_whole(params[paths[0]].shape, wanted[paths[0]], shardings[paths[0]])),
        )
        for paths in groups.values()
    ]


def _joined(paths: list[str]) -> str:
    """Joins paths that differ in numbers only: block_0/mlp, block_1/mlp, block_2/mlp -> block_0..2/mlp."""
    numbers = zip(*([int(number) for number in re.findall(r"(?<=_)\d+", path)] for path in paths), strict=True)
    names = iter([str(min(each)) if len(set(each)) == 1 else f"{min(each)}..{max(each)}" for each in numbers])
    return re.sub(r"(?<=_)\d+", lambda _: next(names), paths[0])


def _left_whole(shape: tuple[int, ...], wanted: PartitionSpec, found: NamedSharding) -> Iterator[str]:
    """Yields a sentence for each axis that the rule would split and the mesh does not divide."""
    first = len(shape) - len(wanted)
    for axis, name in enumerate(wanted, start=first):
        names = name if isinstance(name, tuple) else (name,) if name else ()
        parts = math.prod(found.mesh.shape[each] for each in names)
        if parts > 1 and found.spec[axis] is None:
            yield f"axis {axis}, of {shape[axis]}, stays whole: {' x '.join(names)} {parts} does not divide it"


def spec_text(sharding: NamedSharding, ndim: int) -> str:
    """Returns a specification as the mesh axes that split each axis, a dash where it is whole."""
    spec = (*sharding.spec, *(None,) * (ndim - len(sharding.spec)))
    return ", ".join("-" if name is None else "+".join(name) if isinstance(name, tuple) else name for name in spec)


def bytes_text(count: int) -> str:
    """Returns bytes with a decimal unit."""
    power = min(4, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:.{0 if power == 0 else 2}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def show_sharding(assembly: Assembly, console: Console) -> None:
    """Prints the table and the pictures."""
    lines = sharding_lines(assembly)
    table = Table(title="Parameters, and the mesh axes that split them")
    for name in ("parameter", "shape", "split by"):
        table.add_column(name, overflow="fold")
    table.add_column("bytes per device", justify="right")
    for line in lines:
        shape = " x ".join(map(str, line.shape))
        spec = Text.assemble(spec_text(line.sharding, len(line.shape)), (" (!)" if line.replicated_axes else "", "red"))
        times = "" if line.count == 1 else f"{line.count} of "
        table.add_row(line.path, times + shape, spec, bytes_text(line.bytes_per_device))
    state = trees.abstract_like(assembly.state, assembly.shardings)
    totals = {"all parameters": state.merged, "optimizer state": state.optimizer, "moving average": state.average}
    table.add_section()
    for name, tree in totals.items():
        if leaves := jax.tree.leaves(tree):
            numbers = sum(leaf.size for leaf in leaves)
            total = bytes_text(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
            table.add_row(name, f"{numbers:,}", f"{total} in all", bytes_text(bytes_per_device(tree)))
    console.print(table)
    for line in lines:
        for sentence in line.replicated_axes:
            console.print(Text.assemble(("(!)", "red"), f" {line.path}: {sentence}"), soft_wrap=True)
    _show_pictures(assembly, lines, console)


def _show_pictures(assembly: Assembly, lines: list[Line], console: Console) -> None:
    def show(title: str, picture: str) -> None:
        console.print(Text.assemble("\n", (title, "bold"), f"\n{picture}"), soft_wrap=True)

    mesh = assembly.mesh
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    show(f"The mesh: {sizes}, devices by number", draw_mesh(mesh))
    if mesh.size == 1:
        return
    inputs = abstract_batch(assembly)["inputs"]
    show(_title("The batch's inputs", inputs.shape, inputs.sharding), draw_blocks(inputs.shape, inputs.sharding))
    by_size = sorted(lines, key=lambda line: -math.prod(line.shape))
    distinct = {str(line.sharding.spec): line for line in reversed(by_size)}
    largest = sorted(distinct.values(), key=lambda line: -math.prod(line.shape))[:PICTURES]
    for line in largest:
        show(_title(line.path, line.shape, line.sharding), draw_blocks(line.shape, line.sharding))


def _title(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> str:
    block = " x ".join(map(str, sharding.shard_shape(shape)))
    return f"{name}: {' x '.join(map(str, shape))} ({spec_text(sharding, len(shape))}), in blocks of {block}"
