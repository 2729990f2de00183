"""Masked language modelling: predict the tokens that are masked (Devlin et al. 2019, BERT, section 3.1)."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from research.core.ranges import Between0And1
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.tasks.packed_text import applied, built, entropy_loss, initial, special_id, special_ids
from research.tasks.task import Context, Loss, Task, row_keys


class Corrupted(NamedTuple):
    """What the model sees, and which tokens it is asked for."""

    inputs: Int[Array, "batch length"]
    chosen: Bool[Array, "batch length"]


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModelling:
    """Cross entropy of the chosen tokens, in nats; of them 80 % are masked, 10 % replaced, 10 % left as they are.

    In training they are drawn by the key of the step. Otherwise by a key for each row of the split, so that every
    evaluation asks for the same.
    """

    mask_rate: Between0And1 = 0.15
    """fraction of the tokens that are predicted"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model that gives logits [batch length vocabulary]."""
        functions, mask_id = built(model, data), special_id(data, "mask")
        special, vocabulary = special_ids(data), data.tokenizer.vocabulary_size if data.tokenizer else 0

        init = partial(initial, functions, data)

        def corrupted(batch: Batch, context: Context, drawn: Key[Array, ""]) -> Corrupted:
            inputs = jnp.asarray(batch["inputs"])
            eligible = real_tokens(batch) & ~jnp.isin(inputs, jnp.asarray(special))
            draws = jax.random.uniform(drawn, (3, *inputs.shape)) if context.train else draws_by_row(batch, context)
            return corrupt(inputs, eligible, draws, self.mask_rate, mask_id, vocabulary)

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            key, drawn = jax.random.split(context.key)
            seen = corrupted(batch, context, drawn)
            logits, sown = applied(
                functions, params, {**batch, "inputs": seen.inputs}, dataclasses.replace(context, key=key)
            )
            return entropy_loss(logits, batch["inputs"], seen.chosen.astype(jnp.float32), sown)

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Array]:
            seen = corrupted(batch, context, context.key)
            logits, _ = applied(functions, params, {**batch, "inputs": seen.inputs}, context)
            return {"logits": logits, "targets": jnp.asarray(batch["inputs"]), "mask": seen.chosen.astype(jnp.float32)}

        return Task(init, loss, predict)


def corrupt(
    tokens: Int[Array, "batch length"],
    eligible: Bool[Array, "batch length"],
    draws: Float[Array, "3 batch length"],
    mask_rate: float,
    mask_id: int,
    vocabulary: int,
) -> Corrupted:
    """Chooses eligible tokens at `mask_rate` and masks, replaces or leaves them, by three draws from [0, 1) each."""
    chosen = eligible & (draws[0] < mask_rate)
    other = (draws[2] * vocabulary).astype(jnp.int32)
    replaced = jnp.where(draws[1] < 0.8, mask_id, jnp.where(draws[1] < 0.9, other, tokens))
    return Corrupted(jnp.where(chosen, replaced, tokens), chosen)


def real_tokens(batch: Batch) -> Bool[Array, "batch length"]:
    """Which positions hold text: those that count, or in rows of labelled text those of a segment."""
    mask = jnp.asarray(batch["mask"])
    if mask.shape == batch["inputs"].shape:
        return mask > 0
    return (jnp.asarray(batch["segments"]) > 0) & (mask > 0).any(-1, keepdims=True)


def draws_by_row(batch: Batch, context: Context) -> Float[Array, "3 batch length"]:
    """Returns three numbers in [0, 1) for each token, drawn by the key of its row."""
    length = batch["inputs"].shape[1]
    return jax.vmap(lambda key: jax.random.uniform(key, (3, length)), out_axes=1)(row_keys(context, batch))
