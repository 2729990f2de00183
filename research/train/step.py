"""The training step, the product of a small pure factory: gradients, update, statistics, moving average, metrics.

Losses arrive as sums and weights, so micro-batches add up to exactly the gradient of the whole batch, also where
their weights differ. `Assembly.compiled_step` compiles the step and donates the state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, UInt32

from research.core.precision import ComputeType, cast
from research.core.shapes import Batch, Params
from research.core.streams import stream
from research.runs.chain import ROW_DIGESTS
from research.tasks.task import Loss, Mean, Task
from research.train.state import State

Step = Callable[[State, Batch], tuple[State, dict[str, Any]]]


class Sums(NamedTuple):
    """What a batch, or a part of one, adds to a step: sums only, so those of the parts add up to those of the whole."""

    gradients: Params
    loss: Loss
    digest: UInt32[Array, "2"]


def make_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    compute: ComputeType = "float32",
    accumulate: int = 1,
    average_decay: float = 0.0,
    statistics_decay: float = 0.9,
) -> Step:
    """Returns `step(state, batch) -> (state, metrics)`.

    Args:
        task: what to learn.
        optimizer: how to follow the gradient.
        seed: of the "train" stream, which draws dropout and augmentation.
        compute: the type of the forward and backward pass; parameters, sums and updates stay float32.
        accumulate: micro-batches that the batch is cut into, one after another.
        average_decay: decay of the moving average of the parameters, 0 for none.
        statistics_decay: decay of running statistics (batch normalisation).
    """
    sums = make_sums(task, compute)
    update = make_update(optimizer, average_decay=average_decay, statistics_decay=statistics_decay)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        key = stream(seed, "train", state.step)
        return update(state, accumulated(sums, state.params, batch, key, accumulate), key)

    return step


def make_sums(task: Task, compute: ComputeType) -> Callable[[Params, Batch, Any], Sums]:
    """Returns `sums(params, batch, key)`: the forward and backward pass."""

    def objective(params: Params, batch: Batch, key: Any) -> tuple[Any, Loss]:
        loss = task.loss(cast(params, compute), batch, key, True)
        return loss.sum.astype(jnp.float32), loss

    def sums(params: Params, batch: Batch, key: Any) -> Sums:
        inputs = {name: leaf for name, leaf in batch.items() if name != ROW_DIGESTS}
        digests = jnp.asarray(batch.get(ROW_DIGESTS, np.zeros((1, 2), np.uint32)))
        gradients, loss = jax.grad(objective, has_aux=True)(params, inputs, key)
        return Sums(gradients, loss, digests.sum(0, dtype=jnp.uint32))

    return sums


def make_update(
    optimizer: optax.GradientTransformation, *, average_decay: float, statistics_decay: float
) -> Callable[[State, Sums, Any], tuple[State, dict[str, Any]]]:
    """Returns `update(state, sums, key) -> (state, metrics)`: all of a step that follows the backward pass.

    A step whose loss or gradient is not finite is skipped: `skipped` among its metrics is 1, and the state stays but
    for the step number and the schedule that follows it.
    """
    following = optax.with_extra_args_support(optimizer)

    def update(state: State, sums: Sums, key: Any) -> tuple[State, dict[str, Any]]:
        loss, weight = sums.loss, jnp.maximum(sums.loss.weight, 1e-9)
        gradients = jax.tree.map(lambda g: g / weight, sums.gradients)
        value = loss.sum / weight  # for transformations that follow the loss, such as `optax.polyak_sgd`
        updates, moments = following.update(gradients, state.optimizer, state.params, value=value)
        params = optax.apply_updates(state.params, updates)
        params = update_statistics(params, loss.statistics, statistics_decay)
        average = state.average
        if average_decay:
            average = jax.tree.map(lambda old, new: average_decay * old + (1 - average_decay) * new, average, params)
        metrics = {
            "loss": value,
            "weight": loss.weight,
            "gradient_norm": optax.global_norm(gradients),
            "batch": sums.digest,
            "random": jax.random.key_data(key),
            **{name: mean.sum / jnp.maximum(mean.weight, 1e-9) for name, mean in loss.metrics.items()},
        }
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        metrics["skipped"] = 1 - finite.astype(jnp.float32)
        return unless_skipped(finite, State(state.step + 1, params, moments, average), state), metrics

    return update


def unless_skipped(finite: Bool[Array, ""], new: State, old: State) -> State:
    """Returns `new` where `finite`, else `old` with what follows the step of `new`: its number, and optax's counts.

    The counts are those of schedules and of the periods of optimizer groups. Adam's own count stays with its moments,
    whose bias it corrects.
    """

    def choose(after: Any, before: Any) -> Any:
        if isinstance(after, optax.ScaleByScheduleState):
            return after
        if isinstance(after, optax.ConditionallyMaskState):
            return after._replace(inner_state=chosen(after.inner_state, before.inner_state))
        return jnp.where(finite, after, before)

    def chosen(after: Any, before: Any) -> Any:
        return jax.tree.map(choose, after, before, is_leaf=_counts_steps)

    return chosen(new, old).replace(step=new.step)


def _counts_steps(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState | optax.ConditionallyMaskState)


def accumulated(sums: Callable[..., Sums], params: Params, batch: Batch, key: Any, parts: int) -> Sums:
    """Returns the sums over `parts` equal micro-batches, the floating ones in float32."""
    if parts == 1:
        return sums(params, batch, key)
    # Every part takes rows from all over the batch, so that a batch split over devices stays where it is.
    split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        index, micro = part
        return jax.tree.map(jnp.add, total, sums(params, micro, jax.random.fold_in(key, index))), None

    def zeros(leaf: Any) -> jax.Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32) if floating else leaf.dtype)

    shapes = jax.eval_shape(sums, params, jax.tree.map(lambda leaf: leaf[0], split), key)
    total, _ = jax.lax.scan(add, jax.tree.map(zeros, shapes), (jnp.arange(parts), split))
    return total


def update_statistics(params: Params, statistics: Any, decay: float) -> Params:
    """Moves the running statistics, parameters that a `Mean` in `statistics` stands for, towards the batch's."""

    def update(old: Any, new: Any) -> Any:
        if isinstance(new, Mean):
            return decay * old + (1 - decay) * new.sum / new.weight
        return {name: update(value, new[name]) if name in new else value for name, value in old.items()}

    return update(params, statistics) if statistics else params
