"""Greedy decoding as one traced function: the likeliest next token, of every row, until all have ended.

For predictions inside a compiled evaluation; `loop.py` and `beam_search.py` are for texts that a user asks for.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from research.core.shapes import Params
from research.models.model import Decoding


def greedy(
    decoding: Decoding, params: Params, start: Int[Array, "batch"], tokens: int, end: int, context: Mapping[str, Any]
) -> Int[Array, "batch tokens"]:
    """Returns the `tokens` tokens of each row that follow `start`; those after the first `end` are `end` too.

    `context` is the input of an encoder.
    """
    batch = start.shape[0]
    cache = decoding.init_cache(params, batch, tokens, **context)
    first = jnp.zeros(batch, jnp.int32)

    def going_on(carry: Any) -> Any:
        _, _, texts, step = carry
        ended = (texts == end).any(1)
        return (step < tokens) & ~ended.all()

    def step(carry: Any) -> Any:
        cache, token, texts, step = carry
        logits, cache = decoding.decode_step(params, cache, token[:, None], step, first)
        scores = decoding.rules.restricted(logits[:, 0], step, step == tokens - 1)
        token = scores.argmax(-1).astype(jnp.int32)
        return cache, token, texts.at[:, step].set(token), step + 1

    texts = jnp.full((batch, tokens), -1, jnp.int32)
    _, _, texts, _ = jax.lax.while_loop(going_on, step, (cache, start.astype(jnp.int32), texts, jnp.int32(0)))
    over = jnp.cumsum(texts == end, axis=1) > 0
    return jnp.where(over, end, texts)
