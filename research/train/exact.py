r"""`--exact`: a step whose result has the same bits on 1, 2, 4 or 8 devices, in one process or several.

A sum of floating-point numbers depends on its order, and what a program computes depends on its shapes and on how many
devices it was compiled for. So nothing here depends on the number of devices:

1. The batch is always cut into 8 chunks. Device d of D has the chunks d * 8 / D, d * 8 / D + 1, ...
2. Each chunk goes through one program, compiled for one device and one chunk, which gives the chunk's sums.
3. The sums are added in pairs along one fixed tree, the lower levels on a device, the upper ones between devices:

       chunks    0   1   2   3   4   5   6   7
                  \ /     \ /     \ /     \ /
                   +       +       +       +
                    \_____/         \_____/
                       +               +
                        \_____________/
                               +

4. Each device makes the same update of its own copy of the state, by one program compiled for one device.

No result visits the host, and no program waits for another whose result it does not need.
"""

import dataclasses
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

from research.core import trees
from research.core.errors import UserError
from research.core.mesh import replicated
from research.core.shapes import Batch, Params, Tree
from research.core.streams import stream
from research.runtime import backend
from research.tasks.task import Task
from research.train.gradients import GradientFunctions
from research.train.state import State
from research.train.step import Step, make_update, training_context

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
    gradients: GradientFunctions,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    average_decay: float = 0.0,
    statistics_decay: float = 0.9,
    norms_every: int = 0,
) -> Step:
    """Returns `step(state, batch) -> (state, metrics)`, a sequence of compiled programs; not to be jitted itself.

    The arguments are those of `make_step`, and a mesh that `check` accepts. Batch normalisation sees a chunk at a time.
    """
    update = make_update(
        task, optimizer, average_decay=average_decay, statistics_decay=statistics_decay, norms_every=norms_every
    )
    each = CHUNKS // mesh.shape[AXIS]  # chunks of a device
    numbers = _chunk_numbers(mesh, each)
    cut, add_across = _cutter(mesh, each), _adder_across_devices(mesh)

    @_on_each_device
    def chunk_sums(params: Params, others: Params, step: jax.Array, number: jax.Array, batch: Batch) -> Tree:
        context = training_context(step, seed)
        context = dataclasses.replace(context, key=jax.random.fold_in(context.key, number))
        return jax.tree.map(lambda leaf: leaf[None], gradients.sums(params, others, batch, context))  # [1 ...]

    @partial(_on_each_device, donate_argnums=0)
    def add(left: Tree, right: Tree) -> Tree:
        return jax.tree.map(jnp.add, left, right)

    @partial(_on_each_device, donate_argnums=0)
    def finish(state: State, total: Tree) -> tuple[State, dict[str, Any]]:
        sums = gradients.finish(jax.tree.map(lambda leaf: leaf[0], total), stream(seed, "noise", state.step))
        return update(state, sums, training_context(state.step, seed), _no_loss)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        copies = _by_device(state)
        others = [trees.merge(copy.fixed, copy.variables) for copy in copies]
        chunks = [_by_device(chunk) for chunk in cut(batch)]  # [chunk][device]

        def tree_sum(first: int, count: int) -> list[Tree]:
            """Adds `count` chunks of each device, from its chunk `first` on; returns the sum of each device."""
            if count == 1:
                arguments = zip(copies, others, numbers[first], chunks[first], strict=True)
                return chunk_sums([(copy.params, rest, copy.step, n, chunk) for copy, rest, n, chunk in arguments])
            half = count // 2
            return add(list(zip(tree_sum(first, half), tree_sum(first + half, half), strict=True)))

        totals = add_across(tree_sum(0, each))
        ends = finish(list(zip(copies, totals, strict=True)))
        return _as_one_array(replicated(mesh), [end for end, _ in ends]), ends[0][1]

    return step


def _no_loss(params: Params, obj_fn: Any = None) -> jax.Array:
    raise UserError("This optimizer evaluates the loss of the batch, of which --exact has only parts: leave it out.")


def _chunk_numbers(mesh: Mesh, each: int) -> list[list[jax.Array]]:
    """Returns the number of each chunk, on its device: [chunk of a device][device of this process], int32 []."""
    split = NamedSharding(mesh, P(AXIS))
    own = [(place, device) for place, device in enumerate(mesh.devices.flat) if device in split.addressable_devices]
    return [[jax.device_put(np.int32(place * each + index), device) for place, device in own] for index in range(each)]


def _cutter(mesh: Mesh, each: int) -> Callable[[Batch], list[Batch]]:
    """Returns the function that cuts a batch into one batch for each chunk of a device, split over the devices."""
    devices = mesh.shape[AXIS]

    @partial(jax.jit, out_shardings=NamedSharding(mesh, P(AXIS)))
    def cut(batch: Batch) -> list[Batch]:
        def chunk(index: int, leaf: jax.Array) -> jax.Array:
            by_chunk = leaf.reshape(devices, each, -1, *leaf.shape[1:])  # [devices each rows ...]
            return by_chunk[:, index].reshape(-1, *leaf.shape[1:])  # [devices * rows ...]

        return [jax.tree.map(partial(chunk, index), batch) for index in range(each)]

    return cut


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


def _adder_across_devices(mesh: Mesh) -> Callable[[list[Tree]], list[Tree]]:
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
        return totals if devices == 1 else _by_device(exchange(_as_one_array(split, totals)))

    return across


def _by_device(tree: Tree) -> list[Tree]:
    """Returns, for each device of this process, the tree of what it holds."""
    leaves = jax.tree.leaves(tree)
    held = zip(*([shard.data for shard in leaf.addressable_shards] for leaf in leaves), strict=True)
    return [jax.tree.unflatten(jax.tree.structure(tree), each) for each in held]


def _as_one_array(sharding: NamedSharding, parts: list[Tree]) -> Tree:
    """Returns the arrays whose parts, or copies, on this process's devices are given."""

    def whole(*leaves: jax.Array) -> jax.Array:
        rows = sharding.mesh.shape[AXIS] if sharding.spec else None
        shape = leaves[0].shape if rows is None else (rows * leaves[0].shape[0], *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, list(leaves))

    return jax.tree.map(whole, *parts)
