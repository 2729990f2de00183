"""A task: what a model is asked to do, as three pure functions.

`loss` returns sums and weights, never means, so that accumulation over micro-batches, sharding and padding stay
exact. The training loop knows nothing but this; new ideas vary the task, not the loop.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from research.core.shapes import Tree
from research.models.model import Sown


class Mean(NamedTuple):
    """A mean that is not divided yet: add the sums, add the weights, divide once."""

    sum: Float[Array, "*any"]
    weight: Float[Array, ""]


class Loss(NamedTuple):
    """What a batch contributes: loss sum and weight, further means to log, and model statistics.

    `statistics` holds a `Mean` at the path of each parameter that is a running average of activations
    (batch normalisation); it is empty for most models.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: Mapping[str, Mean] = {}
    statistics: Tree = {}


class Task(NamedTuple):
    """`init(key) -> params`; `loss(params, batch, key, train) -> Loss`; `predict(params, batch) -> predictions`.

    A frozen configuration's `build(model, data)` makes one, for a model configuration and the data it learns from.
    `predict` returns a dictionary of arrays with a leading batch axis ("logits", ...), the input of evaluators.
    `sample(params, key)`, where the task can generate, returns something a person can look at.
    """

    init: Any
    loss: Any
    predict: Any
    sample: Any = None


def with_sown(loss: Loss, sown: Sown, weights: Float[Array, "batch"] | Float[np.ndarray, "batch"]) -> Loss:
    """Adds what a model's layers sowed, each row of the batch by its share of `loss.weight`, its `weights`."""
    means = {name: Mean((rows * weights).sum(), loss.weight) for name, rows in {**sown.losses, **sown.metrics}.items()}
    total = sum((means[name].sum for name in sown.losses), loss.sum)
    statistics = jax.tree.map(lambda pair: Mean(*pair), sown.statistics, is_leaf=lambda node: isinstance(node, tuple))
    return Loss(total, loss.weight, {**loss.metrics, **means}, statistics)
