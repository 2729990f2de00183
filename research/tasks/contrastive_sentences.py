"""Contrastive sentence embeddings: related texts get similar embeddings (Gao et al. 2021, SimCSE; InfoNCE)."""

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from research.core.ranges import Range
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.tasks.packed_text import applied, built, initial
from research.tasks.task import Context, Loss, Task, WeightedSum, with_sown


@dataclasses.dataclass(frozen=True)
class ContrastiveSentences:
    """Cross entropy of each text's partner among all partners of the batch, in nats, both ways (van den Oord 2018).

    The other pairs of the batch are the wrong answers, so that a batch cannot be cut into parts.
    """

    temperature: Annotated[float, Range(1e-6, 1000)] = 0.05
    """what cosines are divided by"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model that gives a vector for each text, [batch examples width]."""
        functions = built(model, data)

        init = partial(initial, functions, data)

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            vectors, sown = applied(functions, params, batch, context)
            mask = jnp.asarray(batch["mask"])
            first, second = _partners(vectors)
            counted = mask.reshape(-1)
            scores = first.reshape(-1, first.shape[-1]) @ second.reshape(-1, second.shape[-1]).T / self.temperature
            numbers = jnp.arange(len(counted))
            ways = [jnp.where(counted > 0, each, -1e9) for each in (scores, scores.T)]
            losses = sum(optax.softmax_cross_entropy_with_integer_labels(way, numbers) for way in ways) / 2
            hits = (ways[0].argmax(-1) == numbers) * counted
            weight = mask.sum()
            total = Loss((losses * counted).sum(), weight, {"accuracy": WeightedSum(hits.sum(), weight)})
            return with_sown(total, sown, mask.sum(-1))

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Array]:
            first, second = _partners(applied(functions, params, batch, context)[0])
            return {"first": first, "second": second, "outputs": (first * second).sum(-1)}

        return Task(init, loss, predict, coupled="each text is compared with all others of the batch")


def _partners(vectors: Float[Array, "batch examples width"]) -> tuple[Array, Array]:
    """Returns the vectors of the first and of the second texts of the pairs, of length 1."""
    unit = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return unit[:, 0::2], unit[:, 1::2]
