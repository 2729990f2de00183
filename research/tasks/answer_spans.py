"""Extractive question answering: the first and the last token of the answer in an example (Devlin et al. 2019, 4.2)."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.core.ranges import Length
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.tasks.packed_text import applied, built, initial
from research.tasks.task import Context, Loss, Task, WeightedSum, with_sown

Logits = Float[Array, "batch length 2"]


@dataclasses.dataclass(frozen=True)
class AnswerSpans:
    """Cross entropy of first and last token over the example's own tokens, in nats; `labels` [batch examples 2]."""

    longest: Length = 30
    """tokens of an answer that is predicted"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model that gives logits [batch length 2]."""
        functions = built(model, data)

        init = partial(initial, functions, data)

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            logits, sown = applied(functions, params, batch, context)
            mask, labels = jnp.asarray(batch["mask"]), jnp.asarray(batch["labels"])
            logs = jax.nn.log_softmax(_within(logits, _members(batch)), axis=2)
            chosen = jnp.take_along_axis(logs, labels[:, :, None], axis=2)[:, :, 0]
            found = best_spans(logits, _members(batch), self.longest)
            correct = (found == labels).all(-1) * mask
            weight = mask.sum()
            total = Loss(-(chosen.mean(-1) * mask).sum(), weight, {"accuracy": WeightedSum(correct.sum(), weight)})
            return with_sown(total, sown, mask.sum(-1))

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Int[Array, "batch examples 2"]]:
            logits, _ = applied(functions, params, batch, context)
            return {"spans": best_spans(logits, _members(batch), self.longest)}

        return Task(init, loss, predict)


def best_spans(
    logits: Logits, members: Bool[Array, "batch examples length"], longest: int
) -> Int[Array, "batch examples 2"]:
    """Returns the first and the last position of each example's likeliest span of at most `longest` tokens."""
    scores = _within(logits, members)
    first, last = scores[..., 0], scores[..., 1]
    length = first.shape[-1]

    def widen(distance: Any, best: Any) -> Any:
        value, size = best
        ends = jnp.where(jnp.arange(length) + distance < length, jnp.roll(last, -distance, axis=-1), -jnp.inf)
        better = first + ends > value
        return jnp.where(better, first + ends, value), jnp.where(better, distance, size)

    start = jnp.full(first.shape, -jnp.inf), jnp.zeros(first.shape, jnp.int32)
    value, size = jax.lax.fori_loop(0, min(longest, length), widen, start)
    begin = value.argmax(-1)
    return jnp.stack([begin, begin + jnp.take_along_axis(size, begin[..., None], axis=-1)[..., 0]], axis=-1)


def _members(batch: Batch) -> Bool[Array, "batch examples length"]:
    """Which positions belong to each example of a row."""
    segments = jnp.asarray(batch["segments"])
    own = jnp.take_along_axis(segments, jnp.asarray(batch["starts"]), axis=1)
    return segments[:, None] == own[..., None]


def _within(logits: Logits, members: Bool[Array, "batch examples length"]) -> Float[Array, "batch examples length 2"]:
    return jnp.where(members[..., None], logits[:, None], np.float32(-1e9))
