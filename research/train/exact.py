"""`--exact`: a step whose result has the same bits on 1, 2, 4 or 8 devices, in one process or several.

A sum of floating-point numbers depends on its order, and what a program computes on its shapes and on how many devices
it was compiled for. So the batch is cut into CHUNKS parts, whatever the devices; each part goes through a program
compiled for one device and one part; the parts' sums are added in pairs along one fixed tree, first on each device,
then across them, with the neighbour at distance 1, 2 and 4; and each device makes the same update of its own copy of
the state. Nothing visits the host, and no program waits for another that it does not need.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from research.core.errors import UserError
from research.core.mesh import replicated
from research.core.precision import ComputeType
from research.core.shapes import Batch, Params, Tree
from research.core.streams import stream
from research.runtime import backend
from research.tasks.task import Task
from research.train.state import State
from research.train.step import Step, make_sums, make_update

CHUNKS = 8
THREADS = 8  # of XLA's pool, on whose size the bits depend
AXIS = "data"


def check(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises UserError where bits cannot be promised to be the same elsewhere."""
    if jax.default_backend() != "cpu":
        raise UserError(
            f"--exact has been shown to hold on CPUs only, and this is a {jax.default_backend()}: leave it out, or set "
            "JAX_PLATFORMS=cpu."
        )
    devices = mesh.shape[AXIS]
    if mesh.size > devices or CHUNKS % devices:
        raise UserError(
            f"--exact needs --mesh.data 1, 2, 4 or 8 and every other axis 1, and the mesh is {dict(mesh.shape)}: "
            "products split over devices are summed in another order."
        )
    if batch_size % CHUNKS or accumulate > 1:
        raise UserError(
            f"--exact cuts every batch into {CHUNKS} parts itself, which {batch_size} examples in {accumulate} "
            f"micro-batches do not allow: set --accumulate 1 --batch-size {-(-batch_size // CHUNKS) * CHUNKS}."
        )
    if backend.thread_pool_size() != THREADS:
        raise UserError(
            f"--exact needs a thread pool of {THREADS}, and this process has begun with {backend.thread_pool_size()}: "
            f"set NPROC={THREADS} in the environment before Python starts."
        )


def make_exact_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    compute: ComputeType = "float32",
    average_decay: float = 0.0,
    statistics_decay: float = 0.9,
) -> Step:
    """Returns `step(state, batch) -> (state, metrics)`, a sequence of compiled programs; not to be jitted itself.

    The arguments are those of `make_step`, and a mesh that `check` accepts. Batch normalisation sees a part at a time.
    """
    sums = make_sums(task, compute)
    update = make_update(optimizer, average_decay=average_decay, statistics_decay=statistics_decay)
    devices = mesh.shape[AXIS]
    each = CHUNKS // devices
    split = NamedSharding(mesh, P(AXIS))
    own = [(place, device) for place, device in enumerate(mesh.devices.flat) if device in split.addressable_devices]
    numbers = [
        [jax.device_put(np.int32(place * each + index), device) for place, device in own] for index in range(each)
    ]

    @partial(jax.jit, out_shardings=split)
    def cut(batch: Batch) -> list[Batch]:
        def part(index: int, leaf: jax.Array) -> jax.Array:
            return leaf.reshape(devices, each, -1, *leaf.shape[1:])[:, index].reshape(-1, *leaf.shape[1:])

        return [jax.tree.map(partial(part, index), batch) for index in range(each)]

    @_on_each_device
    def chunk(params: Params, step: jax.Array, number: jax.Array, batch: Batch) -> Tree:
        key = jax.random.fold_in(stream(seed, "train", step), number)
        return jax.tree.map(lambda leaf: leaf[None], sums(params, batch, key))

    @partial(_on_each_device, donate_argnums=0)
    def finish(state: State, total: Tree) -> tuple[State, dict[str, Any]]:
        total = jax.tree.map(lambda leaf: leaf[0], total)
        return update(state, total, stream(seed, "train", state.step))

    @partial(_on_each_device, donate_argnums=0)
    def add(left: Tree, right: Tree) -> Tree:
        return jax.tree.map(jnp.add, left, right)

    across = _sum_across(mesh)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        copies = _local(state)
        parts = [_local(part) for part in cut(batch)]

        def total(first: int, count: int) -> list[Tree]:
            if count == 1:
                arguments = zip(copies, numbers[first], parts[first], strict=True)
                return chunk([(copy.params, copy.step, number, part) for copy, number, part in arguments])
            half = count // 2
            return add(list(zip(total(first, half), total(first + half, half), strict=True)))

        ends = finish(list(zip(copies, across(total(0, each)), strict=True)))
        return _joined(replicated(mesh), [end for end, _ in ends]), ends[0][1]

    return step


def _on_each_device(function: Callable[..., Any], **options: Any) -> Callable[[list[tuple[Any, ...]]], list[Any]]:
    """Returns `run(arguments)`: one call for each device of this process, by a program compiled for that device."""
    jitted = jax.jit(function, **options)
    programs: list[Any] = []

    def run(arguments: list[tuple[Any, ...]]) -> list[Any]:
        if not programs:
            with ThreadPoolExecutor(len(arguments)) as pool:
                programs.extend(pool.map(lambda each: jitted.lower(*each).compile(), arguments))
        return [program(*each) for program, each in zip(programs, arguments, strict=True)]

    return run


def _sum_across(mesh: Mesh) -> Callable[[list[Tree]], list[Tree]]:
    """Returns the function that adds up the devices' trees, leaves [1 ...], and leaves the sum with each device.

    At every exchange a device adds its own sum and its partner's: the same two numbers on both, in either order.
    """
    devices, split = mesh.shape[AXIS], NamedSharding(mesh, P(AXIS))

    @partial(jax.jit, donate_argnums=0)
    @partial(jax.shard_map, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS))
    def exchange(total: Tree) -> Tree:
        distance = 1
        while distance < devices:
            swap = [(place, place ^ distance) for place in range(devices)]
            total = jax.tree.map(lambda leaf, swap=swap: leaf + jax.lax.ppermute(leaf, AXIS, swap), total)
            distance *= 2
        return total

    def across(totals: list[Tree]) -> list[Tree]:
        return totals if devices == 1 else _local(exchange(_joined(split, totals)))

    return across


def _local(tree: Tree) -> list[Tree]:
    """Returns, for each device of this process, the tree of what it holds."""
    leaves = jax.tree.leaves(tree)
    held = zip(*([shard.data for shard in leaf.addressable_shards] for leaf in leaves), strict=True)
    return [jax.tree.unflatten(jax.tree.structure(tree), each) for each in held]


def _joined(sharding: NamedSharding, parts: list[Tree]) -> Tree:
    """Returns the arrays whose parts, or copies, on this process's devices are given."""

    def whole(*leaves: jax.Array) -> jax.Array:
        rows = sharding.mesh.shape[AXIS] if sharding.spec else None
        shape = leaves[0].shape if rows is None else (rows * leaves[0].shape[0], *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, list(leaves))

    return jax.tree.map(whole, *parts)
