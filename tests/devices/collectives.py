"""The collectives of a compiled program, with the mesh axes that each runs over, read from its optimized HLO text."""

import itertools
import re
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
OPERATION = re.compile(rf" = (\S+|\(.*?\)) ({KINDS})(?:-start)?\(")
# Three ways to write groups of devices: {{0,1},{2,3}}; [2,2]<=[2,2]T(1,0); mesh['a'=2,'b'=2] {'b'}, which may say
# device_ids=([2,2]T(1,0)) before the braces.
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
TILED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"replica_groups=mesh\[([^\]]+)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}:]+)\}")
KEY = re.compile(r"\[\\?'(\w+)\\?'\]")  # of an argument, whose quotes HLO escapes: state.params[\'head\'][\'kernel\']


class Collective(NamedTuple):
    """One collective operation: what it does, over which axes of the mesh, the type of its result, and for whom.

    The scope is the path of the layer, such as `jit(step)/jvp(GPTModule)/head/dot_general`, or from jax 0.12 on that of
    the argument which is gathered, `state.params/head/kernel`.
    """

    kind: str
    axes: tuple[str, ...]
    result: str
    scope: str


def collectives(program: str, mesh: Mesh) -> list[Collective]:
    """Returns those of an optimized HLO program that was compiled for `mesh`."""
    found = []
    for line in program.splitlines():
        if match := OPERATION.search(line):
            scope = re.search(r'op_name="([^"]*)"', line)
            axes = _axes(_groups(line, mesh.size), mesh)
            found.append(Collective(match[2], axes, match[1], KEY.sub(r"/\1", scope[1]) if scope else ""))
    return found


def _groups(line: str, devices: int) -> list[list[int]]:
    """Returns the groups of devices, by their place in the mesh, that talk to one another."""
    if tiled := TILED.search(line):
        return _grid(tiled[2], tiled[3]).reshape(_numbers(tiled[1])).tolist()
    if named := NAMED.search(line):
        sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", named[1])}
        grid = _grid(named[2] or str(devices), named[3]).reshape(tuple(sizes.values()))
        axes = [list(sizes).index(name) for name in named[4].split(",")]
        moved = np.moveaxis(grid, axes, range(-len(axes), 0))
        return moved.reshape(-1, int(np.prod(moved.shape[-len(axes) :]))).tolist()
    if listed := LISTED.search(line):
        groups = [list(_numbers(group)) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
        return groups or [list(range(devices))]
    raise ValueError(f"groups of devices written in an unknown way: {line}")


def _grid(shape: str, order: str | None) -> np.ndarray:
    sizes = _numbers(shape)
    return np.arange(np.prod(sizes)).reshape(sizes).transpose(_numbers(order) if order else None)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """Returns the axes along which the devices of a group differ."""
    shape = tuple(mesh.shape.values())
    differ = {
        axis
        for group in groups
        for left, right in itertools.pairwise(group)
        for axis, a, b in zip(mesh.shape, np.unravel_index(left, shape), np.unravel_index(right, shape), strict=True)
        if a != b
    }
    return tuple(axis for axis in mesh.shape if axis in differ)
