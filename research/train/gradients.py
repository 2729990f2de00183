"""The gradient of a batch as sums: of the whole batch at once, or example by example, each clipped, with noise.

`Gradients.build` gives the functions that a step is made of: `sums`, of a batch or a part of one, and `finish`, of the
sums of all parts; `loss` alone is for optimizers that evaluate it. The sums of the parts add up to those of the whole.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, UInt32

from research.core import ranges, trees
from research.core.errors import UserError
from research.core.precision import ComputeType, cast
from research.core.ranges import AtLeast0, Range
from research.core.shapes import Batch, Params
from research.runs.chain import ROW_DIGESTS
from research.tasks.task import Context, Loss, Task, row_keys

Added = TypeVar("Added")  # a tree of sums


class Sums(NamedTuple):
    """What a batch, or a part of one, adds to a step: sums only.

    Attributes:
        gradients: of the parameters that learn.
        divisor: what the gradients are divided by, once they are all added: the weight of the loss, or the examples.
        loss: the loss and all that goes with it.
        digest: the digests of the rows.
    """

    gradients: Params
    divisor: Float[Array, ""]
    loss: Loss
    digest: UInt32[Array, "2"]


class GradientFunctions(NamedTuple):
    """What a step is made of. `others` are the task's parameters that do not learn.

    Attributes:
        sums: (params, others, batch, context) to the sums.
        finish: (sums, key) to the sums that the update follows; called once a step, with a key of its own.
        loss: (params, others, batch, context) to the sum of the loss and its weight, nothing else.
    """

    sums: Callable[[Params, Params, Batch, Context], Sums]
    finish: Callable[[Sums, Key[Array, ""]], Sums]
    loss: Callable[[Params, Params, Batch, Context], tuple[Float[Array, ""], Float[Array, ""]]]


@dataclasses.dataclass(frozen=True)
class Gradients:
    """How the gradient of a batch is made."""

    clip: AtLeast0 = 0.0
    """the largest norm of each example's own gradient (0: one gradient of the whole batch); Abadi et al. 2016"""
    noise: AtLeast0 = 0.0
    """standard deviation of the Gaussian noise that is added to the sum, in units of `clip`"""
    microbatch: Annotated[int, Range(0, 2**20)] = 0
    """examples whose own gradients are in memory at once (0: all)"""

    def check(self) -> None:
        """Raises UserError for settings that do nothing without another."""
        if not self.clip and (self.noise or self.microbatch):
            raise UserError(
                f"--gradients.noise {self.noise:g}, .microbatch {self.microbatch}: both need a --gradients.clip above "
                "0."
            )

    def build(self, task: Task, compute: ComputeType) -> GradientFunctions:
        """Builds the functions; raises UserError where the settings, or the task, do not allow them."""
        ranges.check(self, within="gradients")
        if not self.clip:
            return GradientFunctions(whole_batch(task, compute), lambda sums, key: sums, loss_alone(task, compute))
        if task.coupled:
            raise UserError(
                f"The rows of a batch have no gradients of their own here, for {task.coupled}: leave out "
                "--gradients.clip."
            )
        return GradientFunctions(
            per_example(task, compute, self.clip, self.microbatch),
            partial(with_noise, std=self.clip * self.noise),
            loss_alone(task, compute),
        )


def _objective(task: Task, compute: ComputeType) -> Callable[..., tuple[Any, Loss]]:
    def objective(params: Params, others: Params, batch: Batch, context: Context) -> tuple[Any, Loss]:
        loss = task.loss(cast(trees.merge(params, others), compute), batch, context)
        if not isinstance(loss, Loss):
            raise UserError(
                f"The loss of the task gives {type(loss).__name__}: let it return a research.tasks.task.Loss, the sum "
                "over the rows and their weight."
            )
        return loss.sum.astype(jnp.float32), loss

    return objective


def _inputs_and_digest(batch: Batch) -> tuple[Batch, UInt32[Array, "2"]]:
    inputs = {name: leaf for name, leaf in batch.items() if name != ROW_DIGESTS}
    digests = jnp.asarray(batch.get(ROW_DIGESTS, np.zeros((1, 2), np.uint32)))
    return inputs, digests.sum(0, dtype=jnp.uint32)


def loss_alone(
    task: Task, compute: ComputeType
) -> Callable[[Params, Params, Batch, Context], tuple[Float[Array, ""], Float[Array, ""]]]:
    """Returns the function of a batch to the sum of its loss and its weight: one forward pass."""
    objective = _objective(task, compute)

    def loss(
        params: Params, others: Params, batch: Batch, context: Context
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        total, whole = objective(params, others, _inputs_and_digest(batch)[0], context)
        return total, whole.weight

    return loss


def whole_batch(task: Task, compute: ComputeType) -> Callable[[Params, Params, Batch, Context], Sums]:
    """Returns `sums`: one forward and one backward pass."""
    objective = _objective(task, compute)

    def sums(params: Params, others: Params, batch: Batch, context: Context) -> Sums:
        inputs, digest = _inputs_and_digest(batch)
        gradients, loss = jax.grad(objective, has_aux=True)(params, others, inputs, context)
        return Sums(gradients, loss.weight, loss, digest)

    return sums


def per_example(
    task: Task, compute: ComputeType, clip: float, microbatch: int
) -> Callable[[Params, Params, Batch, Context], Sums]:
    """Returns `sums` of which each example adds the gradient of its own mean loss, of norm `clip` at most.

    So one example more, or another one in its place, moves the sum by `clip`, or by 2 `clip`, at most (Abadi et al.
    2016, algorithm 1). The divisor is the number of examples. Each example has a key of its own, by its number in the
    split.

    Args:
        task: what to learn.
        compute: the type of the forward and backward pass.
        clip: the largest norm of an example's gradient.
        microbatch: examples whose gradients are in memory at once (0: all); they go one after another.
    """
    objective = _objective(task, compute)

    def sums(params: Params, others: Params, batch: Batch, context: Context) -> Sums:
        inputs, digest = _inputs_and_digest(batch)

        def of_row(row: Batch, key: Key[Array, ""]) -> tuple[Params, Loss]:
            single = jax.tree.map(lambda leaf: leaf[None], row)
            own = dataclasses.replace(context, key=key)
            gradients, loss = jax.grad(objective, has_aux=True)(params, others, single, own)
            if jax.tree.leaves(loss.statistics):
                raise UserError(
                    "The rows of a batch have no gradients of their own where a model gathers statistics of the batch: "
                    "leave out --gradients.clip, or take another normalisation."
                )
            gradients = jax.tree.map(lambda leaf: leaf / jnp.maximum(loss.weight, 1e-9), gradients)
            scale = jnp.minimum(1.0, clip / jnp.maximum(optax.global_norm(gradients), 1e-12))
            return jax.tree.map(lambda leaf: scale * leaf, gradients), loss

        def add(total: Any, part: Any) -> tuple[Any, None]:
            found = jax.vmap(of_row)(*part)
            return jax.tree.map(lambda all, rows: all + rows.sum(0), total, found), None

        rows = (inputs, row_keys(context, inputs))
        count = inputs["index"].shape[0]
        size = microbatch or count
        if count % size:
            raise UserError(
                f"The {count} examples of a batch, or of a part of it, cannot be divided by {size}: set "
                "--gradients.microbatch to a divisor."
            )
        parts = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), rows)
        shapes = jax.eval_shape(of_row, *jax.tree.map(lambda leaf: leaf[0], rows))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (gradients, loss), _ = jax.lax.scan(add, zeros, parts)
        return Sums(gradients, jnp.sum(inputs["real"]), loss, digest)

    return sums


def with_noise(sums: Sums, key: Key[Array, ""], *, std: float) -> Sums:
    """Returns the sums with Gaussian noise of this standard deviation added to every number of the gradients."""
    if not std:
        return sums
    leaves, structure = jax.tree.flatten(sums.gradients)
    keys = jax.random.split(key, len(leaves))
    noisy = [leaf + std * jax.random.normal(k, leaf.shape, leaf.dtype) for leaf, k in zip(leaves, keys, strict=True)]
    return sums._replace(gradients=jax.tree.unflatten(structure, noisy))


def accumulated(
    sums: Callable[..., Added], params: Params, others: Params, batch: Batch, context: Context, parts: int
) -> Added:
    """Returns the sums over `parts` equal micro-batches, one after another, the floating ones in float32."""
    if parts == 1:
        return sums(params, others, batch, context)
    # Every part takes rows from all over the batch, so that a batch split over devices stays where it is.
    split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)

    def of_part(micro: Batch, index: Any) -> Added:
        return sums(params, others, micro, dataclasses.replace(context, key=jax.random.fold_in(context.key, index)))

    def add(total: Added, part: Any) -> tuple[Added, None]:
        index, micro = part
        return jax.tree.map(jnp.add, total, of_part(micro, index)), None

    def zeros(leaf: Any) -> jax.Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32) if floating else leaf.dtype)

    shapes = jax.eval_shape(of_part, jax.tree.map(lambda leaf: leaf[0], split), 0)
    total, _ = jax.lax.scan(add, jax.tree.map(zeros, shapes), (jnp.arange(parts), split))
    return total
