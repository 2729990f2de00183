"""T5: an encoder-decoder transformer with relative positions (Raffel et al. 2020), and its version 1.1.

Pre-norm with RMSNorm and no biases; the products of queries and keys are not scaled, the initial queries are smaller
instead. Version 1.1 has a gated MLP and a head of its own: `activation="geglu", tied=False`. All blocks of a stack
share one table of relative positions, so that texts of any length can be read. `research/hub/t5.py` fills a
configuration and its parameters from published weights.
"""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from research.core import ranges
from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, constrain
from research.core.ranges import Below1, Depth, Epsilon, Heads, Length, OptionalDepth, OptionalWidth, Range, Width
from research.core.shapes import Spec
from research.models.layers.attention import causal_mask, check_heads, segment_mask
from research.models.layers.cache import CachePositions, remember
from research.models.layers.dense import Dense, tied_logits
from research.models.layers.feed_forward import GATES, ActivationKind
from research.models.layers.norm import Norm
from research.models.layers.relative_positions import RelativePositions
from research.models.layers.transformer_block import RESIDUAL, TransformerBlock, encoded_mask
from research.models.layers.transformer_block import SHARDING as BLOCK_SHARDING
from research.models.model import Model, functional

SHARDING = (
    *BLOCK_SHARDING,
    (r"token_embedding$", P("tensor", "fsdp")),
    (r"relative_positions/embedding$", P(None, "tensor")),
    (r"head/kernel$", P("fsdp", "tensor")),
)


@dataclasses.dataclass(frozen=True)
class T5:
    """Sizes and options of a T5."""

    depth: Depth = 4
    """blocks of the encoder"""
    decoder_depth: OptionalDepth = 0
    """blocks of the decoder (0: as many)"""
    width: Width = 128
    """features of the residual stream"""
    heads: Heads = 4
    """heads of each attention"""
    head_dim: OptionalWidth = 0
    """features of a head (0: width / heads)"""
    mlp_dim: OptionalWidth = 0
    """features inside the MLP (0: 4 x width, or 8/3 x width if gated)"""
    buckets: Annotated[int, Range(4, 2**16)] = 32
    """of relative positions"""
    distance: Length = 128
    """from here on all distances share a bucket"""
    activation: ActivationKind = "relu"
    epsilon: Epsilon = 1e-6
    """added to the mean square in each norm"""
    tied: bool = True
    """whether the output head is the token embedding, and its inputs are scaled by width^-0.5"""
    dropout: Below1 = 0.0
    remat: bool = False
    """recompute each block's activations in the backward pass: less memory, a third more compute"""

    def check(self) -> None:
        """Raises UserError for sizes that do not fit one another."""
        if not self.head_dim:
            check_heads(self.width, self.heads, free=True)
        if self.buckets % 2 or self.distance <= self.buckets // 2:
            raise UserError(
                f"{self.buckets} buckets up to a distance of {self.distance} cannot hold relative positions: give an "
                "even number of at least 4, and a distance above half of it, such as --model.buckets 32 "
                "--model.distance 128."
            )

    def build(self, spec: Spec) -> Model:
        """Builds the model for a vocabulary of `spec.size` tokens, which source and target share."""
        ranges.check(self, within="model")
        return functional(T5Module(self, spec.size), SHARDING, cached=True, tokens="decoder_inputs")


class T5Module(nn.Module):
    """Token ids of a source and of a target so far, to next-token logits of the target."""

    config: T5
    vocabulary: int

    @nn.compact
    def __call__(
        self,
        inputs: Int[Array, "batch keys"] | None = None,
        train: bool = False,
        decoder_inputs: Int[Array, "batch length"] | None = None,
        segments: Int[Array, "batch keys"] | None = None,
        positions: Int[Array, "batch keys"] | None = None,
        decoder_segments: Int[Array, "batch length"] | None = None,
        decoder_positions: Int[Array, "batch length"] | None = None,
        cache_positions: CachePositions | None = None,
    ) -> Float[Array, "batch length vocabulary"]:
        """Applies encoder and decoder.

        Args:
            inputs: the source; None where `cache_positions` are given and the cache holds the output of the encoder.
            train: whether dropout falls.
            decoder_inputs: the target so far (default: the source, as when parameters are drawn).
            segments, decoder_segments: the example of the row that each token belongs to, from 1; 0 is padding.
            positions, decoder_positions: not read, as distances are the same within an example and along a row.
            cache_positions: where the target's tokens are in the cache.
        """
        decoder_inputs = inputs if decoder_inputs is None else decoder_inputs
        assert decoder_inputs is not None
        normal = nn.initializers.normal(1.0)
        embedding = self.param("token_embedding", normal, (self.vocabulary, self.config.width), jnp.float32)
        embedding = constrain(embedding, "tensor", None)
        encoded = None if inputs is None else self._encode(embedding[inputs], segments, train)
        source = encoded_mask(self, inputs, segments, decoder_inputs, decoder_segments, cache_positions is not None)
        x = self._decode(embedding[decoder_inputs], decoder_segments, train, encoded, source, cache_positions)
        return self._logits(x, embedding)

    def _encode(self, x: Any, segments: Any, train: bool) -> Array:
        positions = jnp.arange(x.shape[1])[None]
        bias = self._relative_positions("encoder", positions, positions)
        mask = jnp.ones((1, x.shape[1], x.shape[1]), bool) if segments is None else segment_mask(segments, segments)
        return self._stack("encoder", x, mask, train, score_bias=bias)

    def _decode(
        self, x: Any, segments: Any, train: bool, encoded: Any, source: Any, cache_positions: CachePositions | None
    ) -> Array:
        if cache_positions is None:
            queries = keys = jnp.arange(x.shape[1])[None]
            mask = causal_mask(x.shape[1], segments)
        else:
            queries, mask = cache_positions.text_positions(x.shape[1]), None
            keys = remember(self, "positions", queries, cache_positions)
        bias = self._relative_positions("decoder", queries, keys)
        return self._stack(
            "decoder",
            x,
            mask,
            train,
            encoded=encoded,
            encoded_mask=source,
            score_bias=bias,
            cache_positions=cache_positions,
        )

    def _relative_positions(self, stack: str, queries: Any, keys: Any) -> Array:
        c = self.config
        name = f"{stack}_relative_positions"
        layer = RelativePositions(c.heads, c.buckets, c.distance, both_sides=stack == "encoder", name=name)
        return layer(queries, keys, c.width)

    def _stack(self, name: str, x: Any, mask: Any, train: bool, **rest: Any) -> Array:
        """Applies the blocks of the encoder or the decoder, and its final norm."""
        c = self.config
        x = nn.Dropout(c.dropout, deterministic=not train)(constrain(x, *RESIDUAL))
        block = nn.remat(TransformerBlock, static_argnums=(3,)) if c.remat else TransformerBlock
        head_dim = c.head_dim or c.width // c.heads
        lecun = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        for index in range(c.depth if name == "encoder" else c.decoder_depth or c.depth):
            layer = block(
                c.heads,
                c.mlp_dim or (8 * c.width // 3 if c.activation in GATES else 4 * c.width),
                c.activation,
                "rms",
                False,
                c.epsilon,
                c.dropout,
                True,
                lecun,
                crossing=name == "decoder",
                head_dim=head_dim,
                scale=1.0,
                joined_init=_smaller_queries(c.heads, head_dim),
                query_init=nn.initializers.variance_scaling(1 / head_dim, "fan_in", "normal"),
                name=f"{name}_{index}",
            )
            x = layer(x, mask, train, **rest)
        x = Norm("rms", epsilon=c.epsilon, name=f"{name}_norm")(x)
        return nn.Dropout(c.dropout, deterministic=not train)(x)

    def _logits(self, x: Any, embedding: Any) -> Array:
        if self.config.tied:
            logits = tied_logits(x * self.config.width**-0.5, embedding)
        else:
            logits = Dense(self.vocabulary, bias=False, name="head")(x)
        return constrain(logits, BATCH_AXES, "context", "tensor")


def _smaller_queries(heads: int, head_dim: int) -> nn.initializers.Initializer:
    """Draws the joined kernel of queries, keys and values, the queries smaller by head_dim^-0.5."""

    def init(key: Key[Array, ""], shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        drawn = nn.initializers.variance_scaling(1.0, "fan_in", "normal")(key, shape, dtype)
        factors = jnp.asarray([head_dim**-0.5, 1, 1], dtype)
        return (drawn.reshape(-1, heads, 3, head_dim) * factors[:, None]).reshape(shape)

    return init
