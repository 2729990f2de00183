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

    The softmax runs in float32, and divides after the product with the values, which are fewer than the weights. A
    query that may attend to nothing gets the mean of the values; mask its loss.
    """
    batch, length, heads, head = query.shape
    groups, keys = key.shape[2], key.shape[1]
    shared = heads // groups
    # One plain matrix product for each group: the queries of all its heads, one under the other.
    query = (query * head**-0.5).reshape(batch, length, groups, shared, head).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch, groups, shared * length, head)
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
    scores = jnp.einsum("bgqd,bgsd->bgqs", query, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, groups, shared, length, keys)
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True).astype(value.dtype)
    weights = weights.astype(value.dtype).reshape(batch, groups, shared * length, keys)
    attended = jnp.einsum("bgqs,bgsd->bgqd", weights, value).reshape(batch, groups, shared, length, head) / total
    return attended.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head)


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
