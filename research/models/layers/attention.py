"""Scaled dot-product attention with grouped keys and values, and the self-attention layer around it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Bool, Float, Int

from research.models.layers.dense import Dense
from research.models.layers.rotary import rotate


def attend(
    query: Float[Array, "batch length heads head"],
    key: Float[Array, "batch keys groups head"],
    value: Float[Array, "batch keys groups head"],
    mask: Bool[Array, "#batch length keys"],
) -> Float[Array, "batch length heads head"]:
    """Attention (Vaswani et al. 2017, eq. 1); each group of heads shares a key and a value (Ainslie et al. 2023).

    The softmax runs in float32. A query that may attend to nothing gets the mean of the values; mask its loss.
    """
    batch, length, heads, head = query.shape
    groups = key.shape[2]
    query = (query * head**-0.5).reshape(batch, length, groups, heads // groups, head)
    scores = jnp.einsum("btgqd,bsgd->bgqts", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bgqts,bsgd->btgqd", weights, value).reshape(batch, length, heads, head)


def causal_mask(length: int, segments: Int[Array, "batch length"] | None = None) -> Bool[Array, "#batch length length"]:
    """Each position sees itself and what came before, within its own document where `segments` are given."""
    mask = jnp.tril(jnp.ones((1, length, length), bool))
    return mask if segments is None else mask & (segments[:, :, None] == segments[:, None, :])


class SelfAttention(nn.Module):
    """Multi-head self-attention; `groups` < `heads` shares keys and values, `rotary` turns queries and keys."""

    heads: int
    groups: int
    rotary: bool
    bias: bool
    dropout: float
    kernel_init: Initializer
    output_init: Initializer

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        mask: Bool[Array, "#batch length length"],
        positions: Int[Array, "batch length"],
        train: bool,
    ) -> Float[Array, "batch length width"]:
        batch, length, width = x.shape
        head = width // self.heads
        features = (self.heads + 2 * self.groups) * head
        joined = Dense(features, self.bias, self.kernel_init, name="query_key_value")(x)
        query, key, value = jnp.split(joined, [self.heads * head, (self.heads + self.groups) * head], axis=-1)
        query = query.reshape(batch, length, self.heads, head)
        key = key.reshape(batch, length, self.groups, head)
        value = value.reshape(batch, length, self.groups, head)
        if self.rotary:
            query, key = rotate(query, positions), rotate(key, positions)
        attended = attend(query, key, value, mask).reshape(batch, length, width)
        output = Dense(width, self.bias, self.output_init, name="output")(attended)
        return nn.Dropout(self.dropout, deterministic=not train)(output)
