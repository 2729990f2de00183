"""Scaled dot-product attention with grouped keys and values, and the self-attention layer around it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Bool, Float, Int

from research.core.mesh import BATCH_AXES, constrain
from research.models.layers.dense import ROWS, Dense
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
    # Split positions: each device has the queries of its own and gathers the keys and values of all.
    query = constrain(query, BATCH_AXES, "context", "tensor", None)
    key, value = (constrain(x, BATCH_AXES, None, "tensor", None) for x in (key, value))
    # One plain matrix product for each group: the queries of all its heads, position by position.
    query = (query * head**-0.5).reshape(batch, length, groups, shared, head).swapaxes(1, 2)
    query = query.reshape(batch, groups, length * shared, head)
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
    scores = jnp.einsum("bgqd,bgsd->bgqs", query, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, groups, length, shared, keys)
    scores = jnp.where(mask[:, None, :, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True).astype(value.dtype)
    weights = weights.astype(value.dtype).reshape(batch, groups, length * shared, keys)
    attended = jnp.einsum("bgqs,bgsd->bgqd", weights, value).reshape(batch, groups, length, shared, head) / total
    return attended.swapaxes(1, 2).reshape(batch, length, heads, head)


def causal_mask(length: int, segments: Int[Array, "batch length"] | None = None) -> Bool[Array, "#batch length length"]:
    """Each position sees itself and what came before, within its own document where `segments` are given."""
    mask = jnp.tril(jnp.ones((1, length, length), bool))
    return mask if segments is None else mask & (segments[:, :, None] == segments[:, None, :])


class SelfAttention(nn.Module):
    """Multi-head self-attention; `groups` < `heads` shares keys and values, `rotary` turns queries and keys.

    The columns of the joined kernel are [groups, queries of the group + key + value, head], as in Megatron-LM and
    GPT-NeoX: a device that has some of the groups has all that they need. Where `tensor` does not divide the groups,
    the heads are still split, but the joined product is gathered first.
    """

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
        head, shared = width // self.heads, self.heads // self.groups
        features = self.groups * (shared + 2) * head
        joined = Dense(features, self.bias, self.kernel_init, name="query_key_value")(x)
        joined = joined.reshape(batch, length, self.groups, shared + 2, head)
        joined = constrain(joined, BATCH_AXES, "context", "tensor", None, None)
        query = joined[..., :shared, :].reshape(batch, length, self.heads, head)
        key, value = joined[..., shared, :], joined[..., shared + 1, :]
        if self.rotary:
            query, key = rotate(query, positions), rotate(key, positions)
        attended = attend(query, key, value, mask).reshape(batch, length, width)
        attended = constrain(attended, BATCH_AXES, "context", "tensor")
        output = Dense(width, self.bias, self.output_init, ROWS, name="output")(attended)
        return nn.Dropout(self.dropout, deterministic=not train)(output)
