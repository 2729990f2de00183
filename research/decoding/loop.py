"""Text from a language model, token by token, for a batch of prompts of any lengths.

`make_generate(model.decoding, sampling)` compiles once; the function it returns reads the prompts in chunks into the
cache and then yields a token of every row at a time, as a server or a terminal wants them. `Text` turns a row's tokens
into pieces of text and finds stop strings.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Key

from research.core import ranges
from research.core.errors import UserError
from research.core.shapes import Params
from research.decoding.sampling import Counts, Sampling
from research.models.generation_rules import GenerationRules
from research.models.model import Cache, Decoding

ENDED = -1  # in place of a token of a row that has ended
UNIT = 64  # slots by which caches grow, so that prompts of similar lengths share a compilation

Tokens = Int32[np.ndarray, " _tokens"]
Generate = Callable[..., Iterator[Int32[np.ndarray, " batch"]]]


def make_generate(decoding: Decoding, sampling: Sampling = Sampling(), *, chunk: int = UNIT) -> Generate:
    """Returns `generate(params, prompts, keys, tokens=, end=(), context={})`, which yields int32 [batch] at a time.

    Its arguments: token ids of each row's prompt; a key for each row, so that what is drawn does not depend on the
    other rows; the most tokens to yield; the ids that end a row, besides those of the model's own rules, which are
    yielded as its last, and after which it yields `ENDED`; and the input of an encoder. It stops where all rows have
    ended. Keep it: it holds the compiled programs.

    Args:
        decoding: the model's step-by-step form.
        sampling: how tokens are chosen.
        chunk: tokens of the prompts read at once.

    Raises:
        UserError: the sampling's values are out of range; when called, a prompt is empty, or too long with the tokens.
    """
    ranges.check(sampling)
    rules = decoding.rules
    rules.check_obeyed()
    if sampling.repetition_penalty == 1:
        sampling = dataclasses.replace(sampling, repetition_penalty=rules.repetition_penalty)
    read = make_read(decoding, chunk)
    choose = jax.jit(partial(_choose, sampling, rules))

    @partial(jax.jit, donate_argnums=(1, 4))
    def step(
        params: Params,
        cache: Cache,
        token: Array,
        slot: Array,
        counts: Counts | None,
        first: Array,
        keys: Array,
        written: Array,
        left: Array,
    ) -> Any:
        logits, cache = decoding.decode_step(params, cache, token[:, None], slot, first)
        token, counts = _choose(sampling, rules, logits[:, 0], counts, keys, slot - first, written, left)
        return token, cache, counts

    def generate(
        params: Params,
        prompts: Sequence[Tokens],
        keys: Key[Array, "batch"],
        *,
        tokens: int,
        end: Iterable[int] = (),
        context: Mapping[str, Any] = {},
    ) -> Iterator[Int32[np.ndarray, " batch"]]:
        logits, cache, first, length = read(params, prompts, tokens, context)
        counts = _counted(prompts, logits.shape[-1]) if sampling.counting else None
        token, counts = choose(logits, counts, keys, length - 1 - first, jnp.int32(0), jnp.int32(tokens))
        running, last = np.ones(len(prompts), bool), np.array(sorted({*end, *rules.end}), np.int32)
        for slot in range(length, length + tokens):
            ready = token
            if slot + 1 < length + tokens:  # computed while the caller uses the last one
                written = slot + 1 - length
                sizes = jnp.int32(written), jnp.int32(tokens - written)
                token, cache, counts = step(params, cache, ready, jnp.int32(slot), counts, first, keys, *sizes)
            chosen = np.where(running, np.asarray(ready), ENDED).astype(np.int32)
            yield chosen
            running &= ~np.isin(chosen, last)
            if not running.any():
                return

    return generate


class Reading(NamedTuple):
    """Prompts that have been read."""

    logits: Float[Array, "batch vocabulary"]
    """of the tokens that follow them"""
    cache: Cache
    first: Int[Array, "batch"]
    """the slot where each one begins"""
    length: int
    """the slot that follows them"""


def make_read(decoding: Decoding, chunk: int) -> Callable[..., Reading]:
    """Returns `read(params, prompts, tokens, context)`, which reads prompts into a cache with room for so many tokens.

    Args:
        decoding: the model's step-by-step form.
        chunk: tokens of the prompts read at once.

    Raises:
        UserError: when called, a prompt is empty, or too long with the tokens.
    """
    decode_step = jax.jit(decoding.decode_step, donate_argnums=1)
    init_cache = jax.jit(decoding.init_cache, static_argnums=(1, 2))  # where there is an encoder, it reads the source

    def read(params: Params, prompts: Sequence[Tokens], tokens: int, context: Mapping[str, Any]) -> Reading:
        rows, first = left_padded(prompts, chunk)
        check_context(decoding, prompts, tokens)
        length = rows.shape[1]
        capacity = -(-(length + tokens) // UNIT) * UNIT
        own = {name: jnp.array(array) for name, array in context.items()}  # the caller's may not be donated
        cache = init_cache(params, len(prompts), capacity, **own)
        for start in range(int(first.min()) // chunk * chunk, length, chunk):
            logits, cache = decode_step(params, cache, rows[:, start : start + chunk], jnp.int32(start), first)
        return Reading(logits[:, -1], cache, first, length)

    return read


def left_padded(prompts: Sequence[Tokens], unit: int) -> tuple[Int32[np.ndarray, "batch length"], Array]:
    """Returns the prompts as rows that end together, of a multiple of `unit` tokens, and where each one begins."""
    if not prompts or min(len(prompt) for prompt in prompts) == 0:
        raise UserError("A prompt has no tokens: give at least one character, or a model that has a start token.")
    length = -(-max(len(prompt) for prompt in prompts) // unit) * unit
    rows = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[length - len(prompt) :] = prompt
    return rows, jnp.asarray([length - len(prompt) for prompt in prompts], jnp.int32)


def check_context(decoding: Decoding, prompts: Sequence[Tokens], tokens: int) -> None:
    """Raises UserError where the prompts and so many tokens after them are more than the model can take."""
    longest = max(len(prompt) for prompt in prompts)
    if decoding.context and longest + tokens > decoding.context:
        raise UserError(
            f"A prompt of {longest} tokens and {tokens} more do not fit the model's context of {decoding.context}: ask "
            f"for at most {max(decoding.context - longest, 0)} tokens, or shorten the prompt."
        )


def _choose(
    sampling: Sampling,
    rules: GenerationRules,
    logits: Array,
    counts: Counts | None,
    keys: Array,
    positions: Array,
    written: Array,
    left: Array,
) -> Any:
    """Chooses tokens by the keys folded with their positions; counts them where that matters.

    `written` tokens are there already, and `left` are to come, this one included.
    """
    folded = jax.vmap(jax.random.fold_in)(keys, positions)
    token = sampling.choose(logits, counts, folded, partial(rules.restricted, written=written, is_last=left == 1))
    return token, counts and counts.with_token(token)


def _counted(prompts: Sequence[Tokens], vocabulary: int) -> Counts:
    counts = np.stack([np.bincount(prompt, minlength=vocabulary) for prompt in prompts]).astype(np.int32)
    return Counts(jnp.asarray(counts), jnp.zeros(counts.shape, jnp.int32))


@dataclasses.dataclass
class Text:
    """A row's text as it comes: `add` a token, get the piece of text that is now certain.

    What could still become a stop string, or the rest of a character of several tokens, is held back.
    """

    decode: Callable[[Sequence[int]], str]
    """token ids to text"""
    stop: Sequence[str] = ()
    """strings before which the text ends"""
    before: Sequence[int] = ()
    """the end of what the text continues: a tokenizer may leave out a space that begins a text, not one within it"""
    ids: list[int] = dataclasses.field(default_factory=list)
    given: int = 0
    """characters given out"""
    ended: bool = False

    def add(self, token: int) -> str:
        """Returns what the token adds; "" after the end."""
        if self.ended:
            return ""
        self.ids.append(token)
        text = self._decoded()
        found = min((place for stop in self.stop if (place := text.find(stop, self.given)) >= 0), default=-1)
        if found >= 0:
            self.ended = True
            return self._give(text[:found])
        return self._give(text[: len(text) - _uncertain(text, self.stop)])

    def finish(self) -> str:
        """Ends the text; returns what was held back."""
        if self.ended:
            return ""
        self.ended = True
        return self._give(self._decoded())

    def _decoded(self) -> str:
        return self.decode([*self.before, *self.ids])[self._characters_before :]

    @functools.cached_property
    def _characters_before(self) -> int:
        return len(self.decode(self.before))

    def _give(self, text: str) -> str:
        piece, self.given = text[self.given :], max(self.given, len(text))
        return piece


def _uncertain(text: str, stop: Sequence[str]) -> int:
    """Returns the characters at the end of the text that the next token may change or that may begin a stop string."""
    incomplete = len(text) - len(text.rstrip("\ufffd"))
    beginnings = (size for each in stop for size in range(1, len(each)) if text.endswith(each[:size]))
    return max(incomplete, max(beginnings, default=0))
