"""The training step, the product of a small pure factory: gradients, update, statistics, moving average, metrics.

Losses arrive as sums and weights, so micro-batches add up to exactly the gradient of the whole batch, also where
their weights differ. The step is jitted by the loop, which donates the state.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research.core.precision import ComputeType, cast
from research.core.shapes import Batch, Params
from research.core.streams import stream
from research.tasks.task import Loss, Mean, Task
from research.train.state import State

Step = Callable[[State, Batch], tuple[State, dict[str, Any]]]


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

    def objective(params: Params, batch: Batch, key: Any) -> tuple[Any, Loss]:
        loss = task.loss(cast(params, compute), batch, key, True)
        return loss.sum.astype(jnp.float32), loss

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        key = stream(seed, "train", state.step)
        gradients, loss = accumulated(jax.grad(objective, has_aux=True), state.params, batch, key, accumulate)
        weight = jnp.maximum(loss.weight, 1e-9)
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        params = update_statistics(params, loss.statistics, statistics_decay)
        average = state.average
        if average_decay:
            average = jax.tree.map(lambda old, new: average_decay * old + (1 - average_decay) * new, average, params)
        metrics = {
            "loss": loss.sum / weight,
            "weight": loss.weight,
            "gradient_norm": optax.global_norm(gradients),
            "random": jax.random.key_data(key),
            **{name: mean.sum / jnp.maximum(mean.weight, 1e-9) for name, mean in loss.metrics.items()},
        }
        return State(state.step + 1, params, moments, average), metrics

    return step


def accumulated(gradient: Any, params: Params, batch: Batch, key: Any, parts: int) -> tuple[Params, Loss]:
    """Returns the sums of gradients and losses over `parts` equal micro-batches, in float32."""
    if parts == 1:
        return gradient(params, batch, key)
    # Every part takes rows from all over the batch, so that a batch split over devices stays where it is.
    split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        index, micro = part
        return jax.tree.map(jnp.add, total, gradient(params, micro, jax.random.fold_in(key, index))), None

    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda leaf: leaf[0], split), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), split))
    return total


def update_statistics(params: Params, statistics: Any, decay: float) -> Params:
    """Moves the running statistics, parameters that a `Mean` in `statistics` stands for, towards the batch's."""

    def update(old: Any, new: Any) -> Any:
        if isinstance(new, Mean):
            return decay * old + (1 - decay) * new.sum / new.weight
        return {name: update(value, new[name]) if name in new else value for name, value in old.items()}

    return update(params, statistics) if statistics else params
