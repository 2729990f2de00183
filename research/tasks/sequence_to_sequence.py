"""Sequence to sequence: write the target of a source, as in translation and summarisation, by teacher forcing."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from research.core import trees
from research.core.ranges import Below1
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.data.pipeline import gather
from research.data.text.paired_text import boundary_ids, text_before
from research.decoding.greedy import greedy
from research.tasks.packed_text import applied, built, entropy_loss, initial
from research.tasks.task import Context, Loss, Task

SAMPLES = 3  # pairs shown


@dataclasses.dataclass(frozen=True)
class SequenceToSequence:
    """Cross entropy of each token of the target, in nats, given the source and the target before it."""

    label_smoothing: Below1 = 0.1
    """share of each token's mass spread evenly over all, in training (Szegedy et al. 2016)"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for an encoder-decoder that gives logits [batch length vocabulary].

        Its predictions are those logits, and `tokens` [batch length]: the text that the model writes itself, greedily,
        for rows of one pair. It ends with the tokenizer's end, and is computed only where it is used. A sample shows
        sources of the validation split with what is written, and what was expected.
        """
        functions = built(model, data)
        start, end = boundary_ids(data.tokenizer)

        init = partial(initial, functions, data)

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            logits, sown = applied(functions, params, batch, context)
            smoothing = self.label_smoothing if context.train else 0.0
            return entropy_loss(logits, batch["targets"], batch["mask"], sown, smoothing)

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Array]:
            predictions = {"logits": applied(functions, params, batch, context)[0]}
            if functions.decoding is not None:
                rows, length = batch["targets"].shape
                source = {name: jnp.asarray(batch[name]) for name in ("inputs", "segments")}
                first = jnp.full(rows, start, jnp.int32)
                predictions["tokens"] = greedy(functions.decoding, params, first, length, end, source)
            return predictions

        if "validation" not in data.texts:
            return Task(init, loss, predict)
        write = jax.jit(lambda params, batch, key: predict(params, batch, Context(key, 0, train=False))["tokens"])

        def sample(params: Params, context: Context) -> str:
            rows, texts = data.splits["validation"], data.texts["validation"]
            chosen = np.asarray(jax.random.choice(context.key, len(rows), (SAMPLES,)))
            written = trees.fetch(write(params, gather(rows, chosen), context.key))
            return "\n\n".join(
                f"{texts['source'][index]}\n-> {text_before(data, ids, end)}\n   ({texts['target'][index]})"
                for index, ids in zip(chosen, written, strict=True)
            )

        return Task(init, loss, predict, sample if functions.decoding else None)
