"""Regression on texts: one number for each example of a row, with the squared error."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.tasks.packed_text import applied, built, initial
from research.tasks.task import Context, Loss, Task, WeightedSum, with_sown


@dataclasses.dataclass(frozen=True)
class TextRegression:
    """Squared error of each example; batches hold `labels`, the targets, and `mask` [batch examples]."""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model that gives numbers [batch examples 1]."""
        functions = built(model, data)

        init = partial(initial, functions, data)

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            outputs, sown = applied(functions, params, batch, context)
            mask, error = jnp.asarray(batch["mask"]), outputs[..., 0] - batch["labels"]
            weight = mask.sum()
            absolute = WeightedSum((jnp.abs(error) * mask).sum(), weight)
            total = Loss((error**2 * mask).sum(), weight, {"absolute_error": absolute})
            return with_sown(total, sown, mask.sum(-1))

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Float[Array, "batch examples"]]:
            return {"outputs": applied(functions, params, batch, context)[0][..., 0]}

        return Task(init, loss, predict)
