"""Beam search: the likeliest text by keeping the best few beginnings, with transformers' scores and ends.

`make_beam_search(model.decoding, beams=4)` compiles once and returns a function of parameters and prompts. The beams of
a prompt are neighbouring rows of one batch; their caches move with them.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.core.errors import UserError
from research.core.shapes import Params
from research.decoding.loop import UNIT, Tokens, make_read
from research.models.model import Decoding

LOW = -1e9


@dataclasses.dataclass(frozen=True)
class Beam:
    """The width of the search and when it ends."""

    beams: int = 4
    length_penalty: float = 1.0
    """a text's score is its log-probability over its length to this power"""
    stop: Literal["full", "hopeless", "never"] = "hopeless"
    """end when there are enough finished texts; when no open one of its present length would beat them; or when none of
    any length would (where length_penalty is above 0)"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Search:
    """The open and the finished texts of each prompt."""

    open: Int[Array, "prompts beams length"]
    scores: Float[Array, "prompts beams"]
    """log-probabilities of the open texts"""
    finished: Int[Array, "prompts beams length"]
    finished_scores: Float[Array, "prompts beams"]
    """penalised by length; `LOW` where there is none yet"""
    is_finished: Array
    hopeful: Array
    """[prompts], whether an open text may still beat a finished one"""
    all_ended: Array
    """[], whether no candidate of the last step could go on"""


def make_beam_search(decoding: Decoding, beam: Beam = Beam()) -> Callable[..., list[tuple[Tokens, float]]]:
    """Returns `search(params, prompts, tokens=, end=(), context={})`: each prompt's best text and its score.

    Its arguments are those of `make_generate`'s function, but for the keys. A text ends with one of the ids `end`, or
    has `tokens` tokens.

    Raises:
        UserError: fewer than one beam; when called, a prompt is empty, or too long with the tokens.
    """
    if beam.beams < 1:
        raise UserError(f"A search cannot keep {beam.beams} beams: give 1 or more.")
    read = make_read(decoding, UNIT)
    extend = jax.jit(partial(_extend, beam), static_argnames=("tokens", "end"))

    @partial(jax.jit, donate_argnums=1)
    def advance(params: Params, cache: Any, rows: Array, token: Array, slot: Array, first: Array) -> Any:
        cache = jax.tree.map(lambda leaf: leaf[rows], cache)
        logits, cache = decoding.advance(params, cache, token[:, None], slot, first[rows])
        return logits[:, 0], cache

    def search(
        params: Params,
        prompts: Sequence[Tokens],
        *,
        tokens: int,
        end: Iterable[int] = (),
        context: Mapping[str, Any] = {},
    ) -> list[tuple[Tokens, float]]:
        last, beams = tuple(sorted(end)), beam.beams
        repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), dict(context))
        rows = [prompt for prompt in prompts for _ in range(beams)]
        logits, cache, first, length = read(params, rows, tokens, repeated)
        state = _begin(len(prompts), beams, tokens)
        for step in range(tokens):
            state, moved, token = extend(state, logits, jnp.int32(step), tokens=tokens, end=last)
            if _over(beam, state):
                break
            logits, cache = advance(params, cache, moved, token, jnp.int32(length + step), first)
        return _best(state, beam.length_penalty, step + 1)

    return search


def _begin(prompts: int, beams: int, tokens: int) -> _Search:
    texts = jnp.full((prompts, beams, tokens), -1, jnp.int32)
    return _Search(
        open=texts,
        scores=jnp.tile(jnp.where(jnp.arange(beams) == 0, 0.0, LOW), (prompts, 1)),  # all beams begin alike
        finished=texts,
        finished_scores=jnp.full((prompts, beams), LOW),
        is_finished=jnp.zeros((prompts, beams), bool),
        hopeful=jnp.ones(prompts, bool),
        all_ended=jnp.zeros((), bool),
    )


def _extend(
    beam: Beam, state: _Search, logits: Float[Array, "rows vocabulary"], step: Array, *, tokens: int, end: Sequence[int]
) -> tuple[_Search, Int[Array, "rows"], Int[Array, "rows"]]:
    """Returns the search one token further, the rows whose caches go on, and their tokens."""
    prompts, beams, _ = state.open.shape
    logits = logits.reshape(prompts, beams, -1)
    scores = jax.nn.log_softmax(logits.astype(jnp.float32)) + state.scores[..., None]
    # So many candidates that as many open ones remain if a beam's worth of them end.
    count = max(2, 1 + len(end)) * beams
    scores, flat = jax.lax.top_k(scores.reshape(prompts, -1), count)
    parents, token = flat // logits.shape[-1], (flat % logits.shape[-1]).astype(jnp.int32)
    texts = _rows(state.open, parents).at[:, :, step].set(token)
    ends = jnp.isin(token, jnp.array(end, jnp.int32)) | (step + 1 == tokens)

    kept = jax.lax.top_k(jnp.where(ends, LOW, 0) + scores, beams)[1]
    finished = _finish(beam, state, texts, scores, ends, step)
    open_scores = jnp.take_along_axis(jnp.where(ends, LOW, 0) + scores, kept, 1)
    hopeful = _hopeful(beam, open_scores[:, 0], finished, step, tokens)
    state = dataclasses.replace(
        finished, open=_rows(texts, kept), scores=open_scores, hopeful=finished.hopeful & hopeful, all_ended=ends.all()
    )
    rows = jnp.arange(prompts)[:, None] * beams + jnp.take_along_axis(parents, kept, 1)
    return state, rows.reshape(-1), jnp.take_along_axis(token, kept, 1).reshape(-1)


def _finish(beam: Beam, state: _Search, texts: Array, scores: Array, ends: Array, step: Array) -> _Search:
    """Puts candidates that end, among the likeliest ones of a beam's width, into the finished ones."""
    beams = state.scores.shape[1]
    penalised = scores / (step + 1.0) ** beam.length_penalty
    full = state.is_finished.all(1, keepdims=True) & (beam.stop == "full")
    closed = ~ends | (jnp.arange(scores.shape[1]) >= beams) | full | ~state.hopeful[:, None]
    penalised = jnp.where(closed, penalised + LOW, penalised)
    merged = jnp.concatenate([state.finished_scores, penalised], 1)
    best, places = jax.lax.top_k(merged, beams)
    flags = jnp.concatenate([state.is_finished, ~closed], 1)
    return dataclasses.replace(
        state,
        finished=_rows(jnp.concatenate([state.finished, texts], 1), places),
        finished_scores=best,
        is_finished=jnp.take_along_axis(flags, places, 1),
    )


def _hopeful(beam: Beam, best_open: Array, state: _Search, step: Array, tokens: int) -> Array:
    length = jnp.float32(tokens) if beam.stop == "never" and beam.length_penalty > 0 else step + 1.0
    worst = jnp.where(state.is_finished, state.finished_scores.min(1, keepdims=True), LOW)
    return (best_open[:, None] / length**beam.length_penalty > worst).any(1)


def _over(beam: Beam, state: _Search) -> bool:
    full = beam.stop == "full" and bool(state.is_finished.all())
    return full or not bool(state.hopeful.any()) or bool(state.all_ended)


def _rows(texts: Array, indices: Array) -> Array:
    return jnp.take_along_axis(texts, indices[..., None], 1)


def _best(state: _Search, length_penalty: float, steps: int) -> list[tuple[Tokens, float]]:
    found = []
    for row in range(len(state.scores)):
        if bool(state.is_finished[row].any()):
            text, score = np.asarray(state.finished[row, 0]), float(state.finished_scores[row, 0])
        else:
            text, score = np.asarray(state.open[row, 0]), float(state.scores[row, 0]) / steps**length_penalty
        ids = text[text >= 0]
        found.append((ids, score))
    return found
