"""The device mesh, its named axes, and where batches, parameters and activations live on it.

`data`, `fsdp` and `expert` split the batch; `fsdp` splits the parameters as well, `expert` the experts of a mixture;
`context` splits the positions of a sequence, `tensor` the features of large products. Sharding rules (pattern,
PartitionSpec) stand beside each model; `shard` turns them into a tree of `NamedSharding`. Inside a model, `constrain`
says where an activation lives; it does nothing unless the function is traced `on_mesh`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, cast

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research.core import trees
from research.core.errors import UserError
from research.core.ranges import Range

AXES = ("data", "fsdp", "expert", "context", "tensor")  # the last ones talk most: neighbouring devices
BATCH_AXES = ("data", "fsdp", "expert")

Function = TypeVar("Function", bound=Callable[..., Any])
Devices = Annotated[int, Range(1, 2**20)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis."""

    data: Annotated[int, Range(0, 2**20)] = 0
    """copies of the model, each with its share of the batch (0: all devices that the other axes leave)"""
    fsdp: Devices = 1
    """devices that share the parameters, gradients and optimizer state of one copy, and its share of the batch"""
    expert: Devices = 1
    """devices that share the experts of a mixture, and the batch"""
    context: Devices = 1
    """devices that share the positions of each sequence"""
    tensor: Devices = 1
    """devices that share the features of each large product, and the heads of each attention"""

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Builds the mesh; raises UserError where the sizes do not fit the devices."""
        devices = jax.devices() if devices is None else devices
        sizes = self.sizes(len(devices))
        grid = np.asarray(devices[: math.prod(sizes)]).reshape(sizes)
        idle = {device.process_index for device in devices} - {device.process_index for device in grid.flat}
        if idle:
            raise UserError(
                f"A mesh of {grid.size} of {len(devices)} devices leaves process {min(idle)} without any: "
                f"the nearest that does not: {_fitting(self, len(devices))}."
            )
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def sizes(self, count: int) -> tuple[int, ...]:
        """Returns the devices along each of AXES, of `count` in all; raises UserError where they do not fit."""
        others = [getattr(self, axis) for axis in AXES[1:]]
        rest = math.prod(others)
        data = self.data or max(1, count // max(1, rest))
        if min(data, *others) < 1 or data * rest > count or (not self.data and count % rest):
            product = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, (data, *others), strict=True))
            raise UserError(
                f"A mesh of {product} = {data * rest} does not fit the {count} device{'s' * (count != 1)} here: "
                f"the nearest that does: {_fitting(self, count)}."
            )
        return data, *others


def _fitting(mesh: MeshConfig, count: int) -> str:
    """Names the sizes nearest to those asked for that use every device, as options."""
    wanted = {axis: size for axis in AXES if (size := getattr(mesh, axis)) != (0 if axis == "data" else 1)}
    divisors = [size for size in range(1, count + 1) if count % size == 0]
    fitting = (sizes for sizes in itertools.product(divisors, repeat=len(wanted)) if math.prod(sizes) == count)

    def distance(sizes: tuple[int, ...]) -> float:
        return sum(abs(math.log(max(asked, 0.5) / size)) for asked, size in zip(wanted.values(), sizes, strict=True))

    nearest = min(fitting, key=distance)
    return " ".join(f"--mesh.{axis} {size}" for axis, size in zip(wanted, nearest, strict=True))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of a batch, split over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh) -> int:
    """Returns how many parts the leading axis of a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def local_rows(mesh: Mesh, count: int) -> slice:
    """Returns the rows of a batch of `count` that the devices of this process hold."""
    held = [index[0] for index in batch_sharding(mesh).addressable_devices_indices_map((count,)).values() if index]
    return slice(min(rows.start or 0 for rows in held), max(rows.stop or count for rows in held))


def place(mesh: Mesh, batch: Any, count: int, rows: slice) -> Any:
    """Puts a batch on the devices, from those `rows` of its `count` that this process has made."""
    sharding = batch_sharding(mesh)
    if mesh.size == 1:
        # On a single CPU there is nowhere to move a batch to, and `device_put` would only take time from tiny steps.
        return batch if jax.default_backend() == "cpu" else jax.device_put(batch, sharding)

    def whole(local: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            own = index[0] if index else slice(None)
            return local[(own.start or 0) - rows.start : (own.stop or count) - rows.start]

        return jax.make_array_from_callback((count, *local.shape[1:]), sharding, part)

    return jax.tree.map(whole, batch)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises UserError where the batch cannot be split evenly over micro-batches and devices."""
    parts = batch_parts(mesh)
    unit = parts * accumulate
    if batch_size % unit:
        raise UserError(
            f"A batch of {batch_size} is not divisible by {parts} data-parallel devices x {accumulate} micro-batches: "
            f"the nearest that is: --batch-size {max(1, round(batch_size / unit)) * unit}."
        )


def shard(mesh: Mesh, rules: Sequence[tuple[str, PartitionSpec]], params: Any) -> Any:
    """Returns the tree of shardings of (abstract) `params`.

    A specification counts from the last axis, so that stacked parameters of scanned layers follow the same rule. An
    axis whose size the mesh does not divide stays whole.
    """

    def sharding(leaf: Any, spec: PartitionSpec) -> NamedSharding:
        names = (None,) * (leaf.ndim - len(spec)) + tuple(spec)
        return NamedSharding(mesh, _fit(mesh, leaf.shape, names))

    return jax.tree.map(sharding, params, trees.match_rules(rules, params, what="sharding"))


def _fit(mesh: Any, shape: Sequence[int], names: Sequence[Any]) -> PartitionSpec:
    def parts(name: Any) -> int:
        return math.prod(mesh.shape[axis] for axis in (name if isinstance(name, tuple) else (name,)))

    pairs = zip(names, shape, strict=True)
    return PartitionSpec(*(name if name and size % parts(name) == 0 else None for name, size in pairs))


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes that each device holds of a tree of abstract arrays with shardings."""
    return sum(shard_bytes(leaf, leaf.sharding) for leaf in jax.tree.leaves(tree))


def shard_bytes(leaf: Any, sharding: NamedSharding) -> int:
    """Returns the bytes that each device holds of an (abstract) array."""
    return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def on_mesh(mesh: Mesh, function: Function) -> Function:
    """Returns `function` such that, while it is traced, `constrain` refers to `mesh`.

    Inside `jax.shard_map`, where each device has its own part, there is nothing to constrain.
    """
    if mesh.size == 1:
        return function

    @functools.wraps(function)
    def traced(*args: Any, **options: Any) -> Any:
        if not jax.sharding.get_abstract_mesh().empty:
            return function(*args, **options)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **options)

    return cast(Function, traced)


def axis_size(axis: str) -> int:
    """Returns the devices along a mesh axis, where a function is traced `on_mesh`; otherwise 1."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def constrain(x: jax.Array, *names: str | tuple[str, ...] | None) -> jax.Array:
    """Splits each axis of `x` over the mesh axes named; an axis whose size they do not divide stays whole."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return x
    return jax.lax.with_sharding_constraint(x, _fit(mesh, x.shape, names))


def multiply(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    inputs: jax.Array,
    kernel: jax.Array,
    *names: str | tuple[str, ...] | None,
) -> jax.Array:
    """Returns `product(inputs, kernel)`, the kernel split over the axes named and gathered along all others.

    What was gathered along `fsdp` is not kept for the gradient, but gathered once more: otherwise every device would
    hold a whole copy of the parameters between the passes (Rajbhandari et al. 2020, ZeRO, stage 3).
    """

    def gathered(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return product(inputs, constrain(kernel, *names))

    return (jax.checkpoint(gathered) if axis_size("fsdp") > 1 else gathered)(inputs, kernel)
