"""Binary classification: one logit an example, with binary cross entropy."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from research.core.errors import UserError
from research.core.ranges import AtLeast0
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.tasks.supervised import example_inputs, in_parameter_type, masked_mean, standardise, weighted
from research.tasks.task import Context, Loss, Task, with_sown


@dataclasses.dataclass(frozen=True)
class BinaryClassification:
    """Binary cross entropy with logits, in nats; batches hold `labels` [batch], 0 or 1."""

    class_weights: tuple[AtLeast0, ...] = ()
    """what the loss of an example is multiplied by in training, of class 0 and of class 1 (none: 1)"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model configuration, which gets one output, and its data."""
        if data.outputs != 1:
            raise UserError(
                f"Binary classification predicts one number, these data want {data.outputs}: use another task."
            )
        functions = model.build(data.spec)

        def init(key: Key[Array, ""]) -> Params:
            return functions.init(key, {**data.spec.batch, "inputs": example_inputs(data)})

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            inputs = in_parameter_type(params, standardise(data, batch["inputs"]))
            outputs, sown = functions.apply(params, {**batch, "inputs": inputs}, train=context.train, key=context.key)
            logits = outputs[:, 0].astype(jnp.float32)
            labels = batch["labels"]
            losses = optax.sigmoid_binary_cross_entropy(logits, labels)
            if context.train:
                both = jnp.stack([1 - labels, labels], axis=-1).astype(jnp.float32)
                losses = weighted(losses, self.class_weights, both, data)
            mean = masked_mean(losses, batch["mask"])
            metrics = {"accuracy": masked_mean((logits > 0) == (labels == 1), batch["mask"])}
            return with_sown(Loss(mean.sum, mean.weight, metrics), sown, batch["mask"])

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Float[Array, "batch"]]:
            inputs = in_parameter_type(params, standardise(data, batch["inputs"]))
            return {"logits": functions.apply(params, {**batch, "inputs": inputs})[0][:, 0].astype(jnp.float32)}

        return Task(init, loss, predict)
