"""The training step, the product of a small pure factory: gradients, update, statistics, moving average, metrics.

Losses arrive as sums and weights, so micro-batches add up to exactly the gradient of the whole batch, also where
their weights differ. `Assembly.compiled_step` compiles the step and donates the state.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from research.core import trees
from research.core.shapes import Batch, Params, Tree
from research.core.streams import stream
from research.tasks.task import Context, Task, WeightedSum
from research.train import optimizers
from research.train.gradients import GradientFunctions, Sums, accumulated
from research.train.norms import NORMS, layer_norms
from research.train.state import State

Step = Callable[[State, Batch], tuple[State, dict[str, Any]]]


def make_step(
    task: Task,
    gradients: GradientFunctions,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    accumulate: int = 1,
    average_decay: float = 0.0,
    statistics_decay: float = 0.9,
    norms_every: int = 0,
) -> Step:
    """Returns `step(state, batch) -> (state, metrics)`.

    Args:
        task: what to learn.
        gradients: how the sums of a batch are made; see `train/gradients.py`.
        optimizer: how to follow the gradient.
        seed: of the "train" stream, which draws dropout and augmentation, and the "noise" stream.
        accumulate: micro-batches that the batch is cut into, one after another.
        average_decay: decay of the moving average of the parameters, 0 for none.
        statistics_decay: decay of running statistics (batch normalisation).
        norms_every: steps between norms of each layer, 0 for none.
    """
    update = make_update(
        task, optimizer, average_decay=average_decay, statistics_decay=statistics_decay, norms_every=norms_every
    )

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        context, others = training_context(state.step, seed), trees.merge(state.fixed, state.variables)
        sums = accumulated(gradients.sums, state.params, others, batch, context, accumulate)

        def value_fn(params: Params, obj_fn: Any = None) -> Float[Array, ""]:  # some ask for it by that name
            return _mean(*accumulated(gradients.loss, params, others, batch, context, accumulate))

        return update(state, gradients.finish(sums, stream(seed, "noise", state.step)), context, value_fn)

    return step


def training_context(step: jax.Array, seed: int) -> Context:
    """Returns what the loss of a step may depend on besides parameters and batch."""
    return Context(stream(seed, "train", step), step, train=True)


def make_update(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    average_decay: float,
    statistics_decay: float,
    norms_every: int = 0,
) -> Callable[[State, Sums, Context, Callable[..., Any]], tuple[State, dict[str, Any]]]:
    """Returns `update(state, sums, context, value_fn) -> (state, metrics)`: all that follows the backward pass.

    `value_fn(params)` is the mean loss of the batch, for optimizers that evaluate it, as those with a line search do.
    A step whose loss or gradient is not finite is skipped: `skipped` among its metrics is 1, and the state stays but
    for the step number and the schedule that follows it.
    """
    following = optax.with_extra_args_support(optimizer)

    def update(
        state: State, sums: Sums, context: Context, value_fn: Callable[..., Any]
    ) -> tuple[State, dict[str, Any]]:
        loss, divisor = sums.loss, jnp.maximum(sums.divisor, 1e-9)
        gradients = jax.tree.map(lambda g: g / divisor, sums.gradients)
        value = _mean(loss.sum, loss.weight)
        # By the names that optax's transformations give them; most want none of these.
        wanted = {"value": value, "grad": gradients, "value_fn": value_fn, "obj_fn": value_fn}
        updates, moments = following.update(gradients, state.optimizer, state.params, **wanted)
        params = optax.apply_updates(state.params, updates)
        variables = update_statistics(state.variables, loss.statistics, statistics_decay)
        if task.after is not None:
            merged = trees.merge(params, state.fixed, variables)
            variables = task.after(variables, merged, loss.statistics, context)
        average = state.average
        if average_decay:
            average = jax.tree.map(lambda old, new: average_decay * old + (1 - average_decay) * new, average, params)
        metrics = {
            "loss": value,
            "weight": loss.weight,
            "gradient_norm": optax.global_norm(gradients),
            "batch": sums.digest,
            "random": jax.random.key_data(context.key),
            **{name: _mean(mean.sum, mean.weight) for name, mean in loss.metrics.items()},
            **optimizers.own_rates(moments),
        }
        if norms_every:
            metrics[NORMS] = layer_norms(gradients, params, (state.step + 1) % norms_every == 0)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        metrics["skipped"] = 1 - finite.astype(jnp.float32)
        new = State(state.step + 1, params, state.fixed, variables, moments, average)
        return unless_skipped(finite, new, state), metrics

    return update


def _mean(total: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, ""]:
    return total / jnp.maximum(weight, 1e-9)


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

    return chosen(new, old).replace(step=new.step, fixed=old.fixed)


def _counts_steps(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState | optax.ConditionallyMaskState)


def update_statistics(variables: Params, statistics: Tree, decay: float) -> Params:
    """Moves the running statistics, variables that a `WeightedSum` in `statistics` stands for, towards the batch's."""

    def update(old: Any, new: Any) -> Any:
        if isinstance(new, WeightedSum):
            return decay * old + (1 - decay) * new.sum / new.weight
        if not isinstance(old, dict):
            return old  # what `Task.after` reads
        return {name: update(value, new[name]) if name in new else value for name, value in old.items()}

    return update(variables, statistics) if statistics else variables
