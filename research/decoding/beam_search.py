"""Beam search: the likeliest text, found by extending only the best few beginnings at each step.

Scores and stopping rules are those of Hugging Face's transformers. `make_beam_search(model.decoding, Beam(4))` compiles
once and returns a function of parameters and prompts. The beams of a prompt are neighbouring rows of one batch; their
caches are reordered with them.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.core import ranges
from research.core.ranges import Range
from research.core.shapes import Params
from research.decoding.loop import UNIT, Tokens, make_read
from research.models.generation_rules import GenerationRules
from research.models.model import Decoding

LOW = -1e9
MOST_BEAMS = 1000
LengthPenalty = Annotated[float, Range(-100, 100)]


@dataclasses.dataclass(frozen=True)
class Beam:
    """How many beams the search keeps, and when it ends."""

    beams: Annotated[int, Range(1, MOST_BEAMS)] = 4
    length_penalty: LengthPenalty = 1.0
    """a text's score is its log-probability over its length to this power"""
    stop: Literal["full", "hopeless", "never"] = "hopeless"
    """end when there are enough finished texts; when no unfinished one would score higher at its present length; or
    when none would at any length (where length_penalty is above 0)"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Search:
    """The unfinished ("open") and the finished texts of each prompt."""

    open: Int[Array, "prompts beams length"]
    scores: Float[Array, "prompts beams"]
    """log-probabilities of the open texts"""
    finished: Int[Array, "prompts beams length"]
    finished_scores: Float[Array, "prompts beams"]
    """penalised by length; `LOW` where there is none yet"""
    is_finished: Array
    hopeful: Array
    """[prompts], whether an open text may still score higher than a finished one"""
    all_ended: Array
    """[], whether all candidates of the last step ended"""


def make_beam_search(decoding: Decoding, beam: Beam = Beam()) -> Callable[..., list[tuple[Tokens, float]]]:
    """Returns `search(params, prompts, tokens=, end=(), context={})`: each prompt's best text and its score.

    Its arguments are those of `make_generate`'s function, but for the keys. A text ends with one of the ids `end`, or
    has `tokens` tokens.

    Raises:
        UserError: fewer than one beam; when called, a prompt is empty, or too long with the tokens.

    Here the "model" is a table of next-token probabilities by the last token. After the token 0, token 1 is likelier
    (0.6) than token 2 (0.4), but 2 leads to token 3 with 0.9 and 1 only with 0.4. One beam is greedy search and takes
    1, 3 (probability 0.24); two beams find 2, 3 (0.36). The score is the log-probability per token:

        >>> table = [[0.0, 0.6, 0.4, 0.0], [0.3, 0.3, 0.0, 0.4], [0.0, 0.1, 0.0, 0.9], [1.0, 0.0, 0.0, 0.0]]
        >>> decoding = Decoding(
        ...     init_cache=lambda params, batch, capacity: jnp.zeros((batch, 1)),
        ...     decode_step=lambda params, cache, tokens, start, first: (params["table"][tokens], cache),
        ... )
        >>> params = {"table": jnp.log(jnp.array(table))}
        >>> for beams in (1, 2):
        ...     search = make_beam_search(decoding, Beam(beams))
        ...     ((text, score),) = search(params, [np.array([0], np.int32)], tokens=2)
        ...     print(text.tolist(), f"{np.exp(2 * score):.2f}")
        [1, 3] 0.24
        [2, 3] 0.36
    """
    ranges.check(beam)
    decoding.rules.check_obeyed(penalty=False)
    read = make_read(decoding, UNIT)
    extend = jax.jit(partial(_extend, beam, decoding.rules), static_argnames=("tokens", "end"))

    @partial(jax.jit, donate_argnums=1)
    def decode_step(params: Params, cache: Any, rows: Array, token: Array, slot: Array, first: Array) -> Any:
        cache = jax.tree.map(lambda leaf: leaf[rows], cache)
        logits, cache = decoding.decode_step(params, cache, token[:, None], slot, first[rows])
        return logits[:, 0], cache

    def search(
        params: Params,
        prompts: Sequence[Tokens],
        *,
        tokens: int,
        end: Iterable[int] = (),
        context: Mapping[str, Any] = {},
    ) -> list[tuple[Tokens, float]]:
        last, beams = tuple(sorted({*end, *decoding.rules.end})), beam.beams
        repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), dict(context))
        rows = [prompt for prompt in prompts for _ in range(beams)]
        logits, cache, first, length = read(params, rows, tokens, repeated)
        state = _begin(len(prompts), beams, tokens)
        for step in range(tokens):
            state, moved, token = extend(state, logits, jnp.int32(step), tokens=tokens, end=last)
            if _over(beam, state):
                break
            logits, cache = decode_step(params, cache, moved, token, jnp.int32(length + step), first)
        return _best(state, beam.length_penalty, step + 1)

    return search


def _begin(prompts: int, beams: int, tokens: int) -> _Search:
    texts = jnp.full((prompts, beams, tokens), -1, jnp.int32)
    return _Search(
        open=texts,
        scores=jnp.tile(
            jnp.where(jnp.arange(beams) == 0, 0.0, LOW), (prompts, 1)
        ),  # all beams start equal: only the first counts
        finished=texts,
        finished_scores=jnp.full((prompts, beams), LOW),
        is_finished=jnp.zeros((prompts, beams), bool),
        hopeful=jnp.ones(prompts, bool),
        all_ended=jnp.zeros((), bool),
    )


def _extend(
    beam: Beam,
    rules: GenerationRules,
    state: _Search,
    logits: Float[Array, "rows vocabulary"],
    step: Array,
    *,
    tokens: int,
    end: Sequence[int],
) -> tuple[_Search, Int[Array, "rows"], Int[Array, "rows"]]:
    """Returns the search extended by one token, the rows whose caches are kept, and their tokens."""
    prompts, beams, _ = state.open.shape
    logits = logits.reshape(prompts, beams, -1)
    scores = rules.restricted(jax.nn.log_softmax(logits.astype(jnp.float32)), step, step + 1 == tokens)
    scores += state.scores[..., None]
    # Enough candidates that `beams` open ones remain even where many of them end.
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
    """Adds the candidates that end, among the `beams` likeliest, to the finished texts."""
    beams = state.scores.shape[1]
    penalised = scores / (step + 1.0) ** beam.length_penalty
    full = state.is_finished.all(1, keepdims=True) & (beam.stop == "full")
    closed = ~ends | (jnp.arange(scores.shape[1]) >= beams) | full | ~state.hopeful[:, None]
    penalised = jnp.where(closed, penalised + LOW, penalised)
    merged = jnp.concatenate([state.finished_scores, penalised], 1)
    best, indices = jax.lax.top_k(merged, beams)
    flags = jnp.concatenate([state.is_finished, ~closed], 1)
    return dataclasses.replace(
        state,
        finished=_rows(jnp.concatenate([state.finished, texts], 1), indices),
        finished_scores=best,
        is_finished=jnp.take_along_axis(flags, indices, 1),
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
