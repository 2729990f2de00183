"""Greedy decoding as one traced function: the likeliest next token, of every row, until all have ended.

For predictions inside a compiled evaluation; `generate.py` and `beam.py` are for texts that a person asks for.
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
    """Returns so many tokens of each row, which follow `start`; those after the first `end` are `end` too.

    `context` is what an encoder reads.
    """
    batch = start.shape[0]
    cache = decoding.begin(params, batch, tokens, **context)
    first = jnp.zeros(batch, jnp.int32)

    def going_on(carry: Any) -> Any:
        _, _, texts, step = carry
        ended = (texts == end).any(1)
        return (step < tokens) & ~ended.all()

    def advance(carry: Any) -> Any:
        cache, token, texts, step = carry
        logits, cache = decoding.advance(params, cache, token[:, None], step, first)
        token = logits[:, 0].argmax(-1).astype(jnp.int32)
        return cache, token, texts.at[:, step].set(token), step + 1

    texts = jnp.full((batch, tokens), -1, jnp.int32)
    _, _, texts, _ = jax.lax.while_loop(going_on, advance, (cache, start.astype(jnp.int32), texts, jnp.int32(0)))
    over = jnp.cumsum(texts == end, axis=1) > 0
    return jnp.where(over, end, texts)
