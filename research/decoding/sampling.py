"""From logits to the next token: penalties, temperature, filters, and the draw; every step a pure function of its key.

The filters run in the order of Hugging Face's transformers, whose greedy and filtered distributions are the oracle.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from research.core.ranges import Fraction, Limit, Range
from research.models.generation_rules import NEVER

Penalty = Annotated[float, Range(-1000, 1000)]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: Annotated[float, Range(0, 1000)] = 1.0
    """divides the logits; 0 takes the likeliest token"""
    top_k: Limit = 0
    """draw from so many likeliest tokens (0: all)"""
    top_p: Annotated[float, Range(0, 1, above=True)] = 1.0
    """draw from the fewest tokens whose probabilities sum to this (Holtzman et al. 2020, nucleus sampling)"""
    min_p: Fraction = 0.0
    """draw from the tokens at least this times as probable as the likeliest (Nguyen et al. 2024)"""
    repetition_penalty: Annotated[float, Range(0, 1000, above=True)] = 1.0
    """divides the positive, multiplies the negative logits of tokens in prompt and text (Keskar et al. 2019, CTRL)"""
    presence_penalty: Penalty = 0.0
    """taken from the logits of tokens that the text has already"""
    frequency_penalty: Penalty = 0.0
    """taken from the logits of tokens for each time that the text has them"""

    def choose(
        self,
        logits: Float[Array, "batch vocabulary"],
        counts: "Counts | None",
        keys: Key[Array, "batch"],
        restricted: Callable[[Array], Array] = lambda logits: logits,
    ) -> Int[Array, "batch"]:
        """Chooses each row's next token.

        Args:
            logits: of the next token.
            counts: of the tokens before; may be None where nothing is penalised.
            keys: one for each row.
            restricted: takes the tokens that may not be written out of the penalised logits.
        """
        logits = self.filtered(logits.astype(jnp.float32), counts, restricted)
        if self.temperature == 0:
            return logits.argmax(-1).astype(jnp.int32)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    def filtered(
        self,
        logits: Float[Array, "batch vocabulary"],
        counts: "Counts | None",
        restricted: Callable[[Array], Array] = lambda logits: logits,
    ) -> Float[Array, "batch vocabulary"]:
        """Returns the logits of the distribution that tokens are drawn from; -inf for those that never are."""
        if counts is not None:
            logits = self._penalised(logits, counts)
        logits = restricted(logits)
        if self.temperature == 0:
            return logits
        logits /= self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
            logits = jnp.where(logits < least, NEVER, logits)
        if self.top_p < 1:
            ordered = -jnp.sort(-logits, axis=-1)
            probabilities = jax.nn.softmax(ordered, axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities  # of all likelier tokens
            least = jnp.where(before < self.top_p, ordered, jnp.inf).min(-1, keepdims=True)
            logits = jnp.where(logits < least, NEVER, logits)
        if self.min_p > 0:
            probabilities = jax.nn.softmax(logits, axis=-1)
            logits = jnp.where(probabilities < self.min_p * probabilities.max(-1, keepdims=True), NEVER, logits)
        return logits

    def _penalised(
        self, logits: Float[Array, "batch vocabulary"], counts: "Counts"
    ) -> Float[Array, "batch vocabulary"]:
        if self.repetition_penalty != 1:
            divided = jnp.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = jnp.where(counts.prompt + counts.text > 0, divided, logits)
        if self.presence_penalty:
            logits -= self.presence_penalty * (counts.text > 0)
        if self.frequency_penalty:
            logits -= self.frequency_penalty * counts.text
        return logits

    @property
    def counting(self) -> bool:
        """Whether a choice depends on the tokens before it."""
        return self.repetition_penalty != 1 or bool(self.presence_penalty or self.frequency_penalty)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counts:
    """How often each row's prompt, and the text after it, has each token."""

    prompt: Int[Array, "batch vocabulary"]
    text: Int[Array, "batch vocabulary"]

    def with_token(self, tokens: Int[Array, "batch"]) -> "Counts":
        """Counts one more token of each row's text."""
        return Counts(self.prompt, self.text.at[jnp.arange(len(tokens)), tokens].add(1))
