"""Classification: one of several classes an example, with softmax cross entropy, label smoothing and augmentation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from research.core.ranges import AtLeast0, Below1
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.data.vision.augmentation import Augmentation
from research.tasks.supervised import (
    check_classes,
    example_inputs,
    in_parameter_type,
    masked_mean,
    standardise,
    weighted,
)
from research.tasks.task import Context, Loss, Task, with_sown


@dataclasses.dataclass(frozen=True)
class Classification:
    """Softmax cross entropy, in nats; batches hold `labels` [batch], class numbers.

    Smoothing and augmentation belong to training: otherwise the loss is the plain one.
    """

    label_smoothing: Below1 = 0.0
    """share of each label's mass spread evenly over all classes (Szegedy et al. 2016)"""
    augmentation: Augmentation = Augmentation()
    """random changes of the training images, made on the device"""
    class_weights: tuple[AtLeast0, ...] = ()
    """what the loss of an example is multiplied by in training, of each class in order (none: 1), if some are rare"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model configuration and its data."""
        check_classes(data)
        functions = model.build(data.spec)

        def init(key: Key[Array, ""]) -> Params:
            return functions.init(key, {**data.spec.batch, "inputs": example_inputs(data)})

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            inputs, labels = jnp.asarray(batch["inputs"]), jax.nn.one_hot(batch["labels"], data.outputs)
            key, shares = context.key, labels
            if context.train:
                key, augment = jax.random.split(key)
                inputs, shares = self.augmentation.apply(augment, inputs, labels)
                labels = optax.smooth_labels(shares, self.label_smoothing)
            inputs = in_parameter_type(params, standardise(data, inputs))
            outputs, sown = functions.apply(params, {**batch, "inputs": inputs}, train=context.train, key=key)
            logits = outputs.astype(jnp.float32)
            losses = optax.softmax_cross_entropy(logits, labels)
            if context.train:
                losses = weighted(losses, self.class_weights, shares, data)
            mean = masked_mean(losses, batch["mask"])
            metrics = {"accuracy": masked_mean(logits.argmax(-1) == labels.argmax(-1), batch["mask"])}
            return with_sown(Loss(mean.sum, mean.weight, metrics), sown, batch["mask"])

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Float[Array, "batch classes"]]:
            inputs = in_parameter_type(params, standardise(data, batch["inputs"]))
            return {"logits": functions.apply(params, {**batch, "inputs": inputs})[0].astype(jnp.float32)}

        coupled = "mixup mixes each row with the next one" if self.augmentation.mixup else ""
        return Task(init, loss, predict, coupled=coupled)
