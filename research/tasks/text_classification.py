"""Classification of texts, or of each of their words: softmax cross entropy with label smoothing."""

import dataclasses
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float

from research.core.ranges import AtLeast0, Below1
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.tasks.packed_text import applied, built, entropy_loss, initial
from research.tasks.supervised import check_classes, weighted
from research.tasks.task import Context, Loss, Task


@dataclasses.dataclass(frozen=True)
class TextClassification:
    """Softmax cross entropy, in nats per label; batches hold `labels` and `mask`.

    Both are [batch examples] for classes of texts or pairs of texts, and the model gives [batch examples classes]. For
    classes of words they are [batch length], and the model gives [batch length classes].
    """

    label_smoothing: Below1 = 0.0
    """share of each label's mass spread evenly over all classes, in training (Szegedy et al. 2016)"""
    class_weights: tuple[AtLeast0, ...] = ()
    """what the loss of a label is multiplied by in training, of each class in order (none: 1), where some are rare"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model with a head for the kind of labels that the data have."""
        check_classes(data)
        functions = built(model, data)

        init = partial(initial, functions, data)

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            logits, sown = applied(functions, params, batch, context)
            if not context.train:
                return entropy_loss(logits, batch["labels"], batch["mask"], sown)
            shares = jax.nn.one_hot(batch["labels"], logits.shape[-1])
            weigh = partial(weighted, weights=self.class_weights, labels=shares, data=data)
            return entropy_loss(logits, batch["labels"], batch["mask"], sown, self.label_smoothing, weigh)

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Float[Array, "batch any classes"]]:
            return {"logits": applied(functions, params, batch, context)[0]}

        return Task(init, loss, predict)
