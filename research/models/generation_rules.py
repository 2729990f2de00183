"""How a published model writes: what begins and ends its texts, and the tokens that it may not or must write.

The record is part of a model's `Decoding`, so that every way to write (the loop, beam search, greedy decoding, the
samples of a task) obeys it. `research/hub/generation.py` reads it from a model's files and writes it on export.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.core.errors import UserError

NEVER = -jnp.inf


@dataclasses.dataclass(frozen=True)
class GenerationRules:
    """What a model's files say about the texts that it writes; token ids.

    Attributes:
        end: each of them ends a text.
        start: begins the text of a model with an encoder (None: the tokenizer says).
        never: are not written.
        never_first: are not written as the first token.
        first: is the first token (None: any).
        last: is the last token of a text of the most tokens that were asked for (None: any).
        repetition_penalty: as of `Sampling`, where that has none of its own.
        unknown: fields of the files that change what is written and are not obeyed here: names and values as JSON.
    """

    end: tuple[int, ...] = ()
    start: int | None = None
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    first: int | None = None
    last: int | None = None
    repetition_penalty: float = 1.0
    unknown: tuple[tuple[str, str], ...] = ()

    def restricted(
        self,
        scores: Float[Array, "*batch vocabulary"],
        written: Int[Array, ""] | int,
        is_last: Bool[Array, ""] | bool = False,
    ) -> Float[Array, "*batch vocabulary"]:
        """Returns the scores of the next token, -inf for those that may not be written; of one that must be, 0.

        Args:
            scores: logits or log-probabilities.
            written: the tokens that the text has already.
            is_last: whether this token is the last of as many as were asked for.
        """
        if self.never:
            scores = scores.at[..., jnp.array(self.never)].set(NEVER)
        if self.never_first:
            without = scores.at[..., jnp.array(self.never_first)].set(NEVER)
            scores = jnp.where(written == (self.first is not None), without, scores)  # the first that is free
        for token, now in ((self.first, written == 0), (self.last, is_last)):
            if token is not None:
                alone = jnp.where(jnp.arange(scores.shape[-1]) == token, 0.0, NEVER).astype(scores.dtype)
                scores = jnp.where(now, alone, scores)
        return scores

    def check_obeyed(self, *, penalty: bool = True) -> None:
        """Raises UserError where the model's files ask for what is not obeyed here, by name.

        Args:
            penalty: whether the caller obeys `repetition_penalty`.
        """
        unknown = self.unknown
        if not penalty and self.repetition_penalty != 1:
            unknown = (*unknown, ("repetition_penalty", str(self.repetition_penalty)))
        if unknown:
            named = ", ".join(f"{name} ({value[:50]})" for name, value in unknown)
            raise UserError(
                f"The model's generation settings have {named}, which is not obeyed here: take it out of "
                "its generation_config.json (of config.json, where that is missing) to write without."
            )
