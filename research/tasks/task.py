"""A task: what a model is asked to do, as a few pure functions.

`loss` returns sums and weights, never means, so that accumulation over micro-batches, sharding and padding stay
exact. The training loop knows nothing but this; new ideas vary the task, not the loop.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key

from research.core.configs import config_protocol
from research.core.shapes import Batch, Params, Tree
from research.core.streams import stream
from research.data.dataset import Data
from research.models.model import Sown, no_path


class WeightedSum(NamedTuple):
    """A mean that is not divided yet: add the sums, add the weights, divide once."""

    sum: Float[Array, "*any"]
    weight: Float[Array, ""]


class Loss(NamedTuple):
    """What a batch contributes: loss sum and weight, further means to log, and model statistics.

    `statistics` holds a `WeightedSum` at the path of each variable that is a running average of activations
    (batch normalisation), or what `Task.after` reads; it is empty for most models.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: Mapping[str, WeightedSum] = {}
    statistics: Tree = {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What a function of a task may depend on besides parameters and batch.

    Attributes:
        key: Key [], of the random choices: in training a key of the step, or of the part of it; else one key of the
            run, from which `row_keys` makes one for each row.
        step: completed steps, int32 []; 0 outside training.
        train: whether dropout, augmentation and label smoothing apply.
    """

    key: Any
    step: Any
    train: bool = dataclasses.field(metadata={"static": True})


class LossFunction(Protocol):
    def __call__(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Returns the sums of a batch."""
        ...


class Predict(Protocol):
    def __call__(self, params: Params, batch: Batch, context: Context) -> dict[str, Array]:
        """Returns arrays with a leading batch axis ("logits", ...), the input of evaluators."""
        ...


class Init(Protocol):
    def __call__(self, key: Key[Array, ""]) -> Params:
        """Draws the parameters."""
        ...


class After(Protocol):
    def __call__(self, variables: Params, params: Params, statistics: Tree, context: Context) -> Params:
        """Returns the variables after a step, of the same paths, shapes and types.

        Args:
            variables: before it, but for running statistics, which have moved already.
            params: the whole tree, with what learns after the step's update.
            statistics: those of the loss, summed over the batch.
            context: that of the step.
        """
        ...


class Task(NamedTuple):
    """`init(key) -> params`; `loss(params, batch, context) -> Loss`; `predict(params, batch, context) -> predictions`.

    A frozen configuration's `build(model, data)` makes one, for a model configuration and the data it learns from.
    `sample(params, context)`, where the task can generate, returns something a person can look at.

    Every batch holds `index`, the number of each row in its split, `real`, 1 for the rows that exist and 0 for those
    that fill up the last batch of an evaluation, both [batch], and `mask`, the weight of the loss alone.

    Attributes:
        init: draws the parameters, one tree of all that the task's functions read.
        loss: sums of a batch.
        predict: what evaluators measure.
        sample: what generation gives, or None.
        after: of tasks that keep variables: their values after a step.
        fixed: whether the parameter at a path never changes, besides those that the model or the optimizer freezes.
        variables: whether the parameter at a path changes without a gradient, besides those of the model.
        sharding: rules for all paths where the task has parameters besides its model's; None: the model's rules.
        coupled: why the rows of a batch depend on one another, as a clause ("each row is mixed with another"), or ""
            where they do not. What cuts a batch then refuses the task.
    """

    init: Init
    loss: LossFunction
    predict: Predict
    sample: Any = None
    after: After | None = None
    fixed: Callable[[str], bool] = no_path
    variables: Callable[[str], bool] = no_path
    sharding: Sequence[tuple[str, PartitionSpec]] | None = None
    coupled: str = ""


@config_protocol
@runtime_checkable
class TaskConfig(Protocol):
    """The configuration of a task, a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for the configuration of a model and the data it learns from.

        Raises:
            UserError: model and data do not fit the task, or one another.
        """
        ...


def evaluation_context(seed: int) -> Context:
    """Returns the context of all predictions of a run with this seed."""
    return Context(stream(seed, "evaluate"), 0, train=False)


def row_keys(context: Context, batch: Batch) -> Key[Array, "batch"]:
    """Returns a key for each row, by its number in the split: the same however rows are batched and padded."""
    return jax.vmap(lambda index: jax.random.fold_in(context.key, index))(batch["index"])


def with_sown(loss: Loss, sown: Sown, weights: Float[Array, "batch"] | Float[np.ndarray, "batch"]) -> Loss:
    """Adds what a model's layers sowed, each row of the batch by its share of `loss.weight`, its `weights`."""
    sown_rows = {**sown.losses, **sown.metrics}
    means = {name: WeightedSum((rows * weights).sum(), loss.weight) for name, rows in sown_rows.items()}
    total = sum((means[name].sum for name in sown.losses), loss.sum)
    statistics = jax.tree.map(
        lambda pair: WeightedSum(*pair), sown.statistics, is_leaf=lambda node: isinstance(node, tuple)
    )
    return Loss(total, loss.weight, {**loss.metrics, **means}, statistics)
