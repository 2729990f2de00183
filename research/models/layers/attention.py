"""Scaled dot-product attention with grouped keys and values, and the self-attention layer around it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Bool, Float, Int

from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, constrain
from research.core.precision import at_least_float32
from research.models.layers.cache import CACHE, CachePositions, remember
from research.models.layers.dense import ROWS, Dense
from research.models.layers.norm import Norm
from research.models.layers.rotary import Rotary, rotate
from research.models.model import ATTENTION


def attend(
    query: Float[Array, "batch length heads head_dim"],
    key: Float[Array, "batch keys num_kv_heads head_dim"],
    value: Float[Array, "batch keys num_kv_heads features"],
    mask: Bool[Array, "#batch length keys"],
    scale: float | None = None,
    bias: Float[Array, "#batch heads length keys"] | None = None,
) -> Float[Array, "batch length heads features"]:
    """Attention (Vaswani et al. 2017, eq. 1); each group of heads shares a key and a value (Ainslie et al. 2023).

    The softmax runs in float32 (float64 where the queries are), and divides after the product with the values, which
    are fewer than the weights. A query that may attend to nothing gets the mean of the values; mask its loss.

    Args:
        query, key, value: what is compared, and what is averaged.
        mask: what each query may attend to.
        scale: of the products, head_dim^-0.5 by default.
        bias: added to the scaled products, for relative positions.
    """
    batch, length, heads, head_dim = query.shape
    keys, num_kv_heads, features = key.shape[1], key.shape[2], value.shape[3]
    shared = heads // num_kv_heads
    # Split positions: each device has the queries of its own and gathers the keys and values of all.
    query = constrain(query, BATCH_AXES, "context", "tensor", None)
    key, value = (constrain(x, BATCH_AXES, None, "tensor", None) for x in (key, value))
    # One plain matrix product for each group: the queries of all its heads, position by position.
    query = query * (head_dim**-0.5 if scale is None else scale)
    query = query.reshape(batch, length, num_kv_heads, shared, head_dim).swapaxes(1, 2)
    query = query.reshape(batch, num_kv_heads, length * shared, head_dim)
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
    scores = jnp.einsum("bgqd,bgsd->bgqs", query, key, preferred_element_type=at_least_float32(query.dtype))
    scores = scores.reshape(batch, num_kv_heads, length, shared, keys)
    if bias is not None:
        scores += bias.reshape(bias.shape[0], num_kv_heads, shared, length, keys).swapaxes(2, 3)
    scores = jnp.where(mask[:, None, :, None], scores, jnp.finfo(scores.dtype).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True).astype(value.dtype)
    weights = weights.astype(value.dtype).reshape(batch, num_kv_heads, length * shared, keys)
    attended = (
        jnp.einsum("bgqs,bgsd->bgqd", weights, value).reshape(batch, num_kv_heads, length, shared, features) / total
    )
    return attended.swapaxes(1, 2).reshape(batch, length, heads, features)


def attention_weights(
    query: Float[Array, "batch length heads head_dim"],
    key: Float[Array, "batch keys num_kv_heads head_dim"],
    mask: Bool[Array, "#batch length keys"],
    scale: float | None = None,
) -> Float[Array, "batch heads length keys"]:
    """Returns the weights with which `attend` averages values, for plots: its output for one-hot values."""
    one_hot = jnp.broadcast_to(jnp.eye(key.shape[1])[:, None], (*key.shape[:3], key.shape[1]))
    return attend(query, key, one_hot, mask, scale).swapaxes(1, 2)


def check_heads(width: int, heads: int, *, free: bool = False) -> None:
    """Raises UserError where heads cannot share the width evenly.

    Args:
        width: features that they share.
        heads: how many.
        free: whether --model.head-dim can give their size instead.
    """
    if width % heads:
        nearest = f"for example --model.width {-(-width // heads) * heads}"
        remedy = (
            f"--model.head-dim, the features of a head, or {nearest}"
            if free
            else f"--model.width or --model.heads so that it is, {nearest}"
        )
        raise UserError(f"The width {width} is not divisible by {heads} heads: set {remedy}.")


def causal_mask(
    length: int, segments: Int[Array, "batch length"] | None = None, window: int = 0
) -> Bool[Array, "#batch length length"]:
    """Each position sees itself and what came before, within its own document where `segments` are given.

    Where `window` is given it sees no more than so many positions.
    """
    mask = jnp.tril(jnp.ones((1, length, length), bool))
    if window:
        mask &= ~jnp.tril(mask, -window)
    return mask if segments is None else mask & segment_mask(segments, segments)


def segment_mask(
    queries: Int[Array, "batch length"], keys: Int[Array, "batch keys"]
) -> Bool[Array, "batch length keys"]:
    """Each position sees those of its own segment, before and after it; padding, segment 0, sees padding."""
    return queries[:, :, None] == keys[:, None, :]


class SelfAttention(nn.Module):
    """Multi-head self-attention; `num_kv_heads` < `heads` shares keys and values, `rotary` turns queries and keys.

    Where `cache_positions` are given it attends to its cache as well, and `mask` is not read.

    The columns of the joined kernel are [num_kv_heads, queries that share the key + key + value, head_dim], as in
    Megatron-LM and GPT-NeoX: a device that has some of the key and value heads has the queries that use them. Where
    `tensor` does not divide `num_kv_heads`, the heads are still split, but the joined product is gathered first.
    """

    heads: int
    num_kv_heads: int
    rotary: Rotary | None
    bias: bool
    dropout: float
    kernel_init: Initializer
    output_init: Initializer
    head_dim: int = 0
    """features of a head (0: width / heads)"""
    scale: float | None = None
    """of the products of queries and keys (None: head_dim^-0.5)"""
    query_key_norm: float | None = None
    """epsilon of a root-mean-square norm of each query and key (None: no norm)"""
    window: int = 0
    """in a cache, the positions that each one sees (0: all)"""
    output_bias: bool | None = None
    """whether the output has a bias (None: as `bias`)"""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        mask: Bool[Array, "#batch length length"] | None,
        positions: Int[Array, "batch length"] | None,
        train: bool,
        cache_positions: CachePositions | None = None,
        score_bias: Float[Array, "#batch heads length keys"] | None = None,
    ) -> Float[Array, "batch length width"]:
        batch, length, width = x.shape
        head_dim, shared = self.head_dim or width // self.heads, self.heads // self.num_kv_heads
        features = self.num_kv_heads * (shared + 2) * head_dim
        joined = Dense(features, self.bias, self.kernel_init, name="query_key_value")(x)
        joined = joined.reshape(batch, length, self.num_kv_heads, shared + 2, head_dim)
        joined = constrain(joined, BATCH_AXES, "context", "tensor", None, None)
        query = joined[..., :shared, :].reshape(batch, length, self.heads, head_dim)
        key, value = joined[..., shared, :], joined[..., shared + 1, :]
        if self.query_key_norm is not None:
            query = Norm("rms", epsilon=self.query_key_norm, name="query_norm")(query)
            key = Norm("rms", epsilon=self.query_key_norm, name="key_norm")(key)
        if self.rotary is not None:
            assert positions is not None
            query, key = rotate(query, positions, self.rotary), rotate(key, positions, self.rotary)
        if cache_positions is not None:
            key, value = remember(self, "key", key, cache_positions), remember(self, "value", value, cache_positions)
            mask = cache_positions.mask(length, key.shape[1], self.window)
        assert mask is not None
        attended = attend(query, key, value, mask, self.scale, score_bias).reshape(batch, length, self.heads * head_dim)
        attended = constrain(attended, BATCH_AXES, "context", "tensor")
        output_bias = self.bias if self.output_bias is None else self.output_bias
        output = Dense(width, output_bias, self.output_init, ROWS, name="output")(attended)
        return nn.Dropout(self.dropout, deterministic=not train)(output)


class CrossAttention(nn.Module):
    """Multi-head attention from one sequence to another, such as from a decoder to the output of an encoder.

    Where it is `cached` the keys and values are computed once, where `encoded` is given, and read from the cache from
    then on. Its weights are sown where `apply` is asked for attention.
    """

    heads: int
    bias: bool
    dropout: float
    kernel_init: Initializer
    output_init: Initializer
    head_dim: int = 0
    """features of a head (0: width / heads)"""
    scale: float | None = None
    """of the products of queries and keys (None: head_dim^-0.5)"""
    query_init: Initializer | None = None
    """of the kernel of the queries (None: kernel_init)"""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        encoded: Float[Array, "batch keys encoded"] | None,
        mask: Bool[Array, "#batch length keys"],
        train: bool,
        cached: bool = False,
    ) -> Float[Array, "batch length width"]:
        batch, length, width = x.shape
        head_dim = self.head_dim or width // self.heads
        features = self.heads * head_dim
        query = Dense(features, self.bias, self.query_init or self.kernel_init, name="query")(x)

        def keys_and_values() -> Float[Array, "batch keys heads 2 head_dim"]:
            assert encoded is not None
            joined = Dense(2 * features, self.bias, self.kernel_init, name="key_value")(encoded)
            return joined.reshape(batch, -1, self.heads, 2, head_dim)

        joined = self.variable(CACHE, "keys_and_values", keys_and_values).value if cached else keys_and_values()
        query, key, value = query.reshape(batch, length, self.heads, head_dim), joined[..., 0, :], joined[..., 1, :]
        if self.is_mutable_collection(ATTENTION):
            weights = attention_weights(query, key, mask, self.scale)
            self.sow(ATTENTION, "weights", weights, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        attended = attend(query, key, value, mask, self.scale).reshape(batch, length, features)
        attended = constrain(attended, BATCH_AXES, "context", "tensor")
        output = Dense(width, self.bias, self.output_init, ROWS, name="output")(attended)
        return nn.Dropout(self.dropout, deterministic=not train)(output)
