"""Regression: predict numbers, with the mean squared error."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.tasks.supervised import example_inputs, in_parameter_type, masked_mean, standardise
from research.tasks.task import Context, Loss, Task, with_sown


@dataclasses.dataclass(frozen=True)
class Regression:
    """Mean squared error over examples and outputs; batches hold `targets` [batch outputs]."""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model configuration and its data."""
        functions = model.build(data.spec)

        def init(key: Key[Array, ""]) -> Params:
            return functions.init(key, {**data.spec.batch, "inputs": example_inputs(data)})

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            inputs = in_parameter_type(params, standardise(data, batch["inputs"]))
            outputs, sown = functions.apply(params, {**batch, "inputs": inputs}, train=context.train, key=context.key)
            error = outputs.astype(jnp.float32) - batch["targets"]
            mean = masked_mean(jnp.square(error).mean(-1), batch["mask"])
            metrics = {"absolute_error": masked_mean(jnp.abs(error).mean(-1), batch["mask"])}
            return with_sown(Loss(mean.sum, mean.weight, metrics), sown, batch["mask"])

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Float[Array, "batch outputs"]]:
            inputs = in_parameter_type(params, standardise(data, batch["inputs"]))
            return {"outputs": functions.apply(params, {**batch, "inputs": inputs})[0].astype(jnp.float32)}

        return Task(init, loss, predict)
