"""The device mesh, its named axes, and where batches and parameters live on it.

`data` splits the batch, `fsdp` splits batch and parameters, `tensor` splits the features of large products. Sharding
rules (pattern, PartitionSpec) stand beside each model; `shard` turns them into a tree of `NamedSharding`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research.core import trees
from research.core.errors import UserError

BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis."""

    data: int = 0
    """copies of the model, each with its share of the batch (0: all devices that the other axes leave)"""
    fsdp: int = 1
    """devices that share the parameters, gradients and optimizer state of one copy"""
    tensor: int = 1
    """devices that share each large product"""

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Builds the mesh; raises UserError where the sizes do not fit the devices."""
        devices = jax.devices() if devices is None else devices
        rest = self.fsdp * self.tensor
        data = self.data or max(1, len(devices) // max(1, rest))
        sizes_are_positive = min(data, self.fsdp, self.tensor) > 0
        if not sizes_are_positive or data * rest > len(devices) or (not self.data and len(devices) % rest):
            raise UserError(
                f"A mesh of data {data} x fsdp {self.fsdp} x tensor {self.tensor} = {data * rest} does not fit the "
                f"{len(devices)} devices here: choose sizes whose product divides {len(devices)}."
            )
        grid = np.asarray(devices[: data * rest]).reshape(data, self.fsdp, self.tensor)
        return Mesh(grid, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of a batch, split over the data axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises UserError where the batch cannot be split evenly over micro-batches and devices."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    unit = parts * max(1, accumulate)
    if accumulate < 1:
        raise UserError(f"A batch cannot be cut into {accumulate} micro-batches: give --accumulate 1 or more.")
    if batch_size < 1 or batch_size % unit:
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
        fitting = (
            name if name and size % mesh.shape[name] == 0 else None
            for name, size in zip(names, leaf.shape, strict=True)
        )
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree.map(sharding, params, trees.match_rules(rules, params, what="sharding"))
