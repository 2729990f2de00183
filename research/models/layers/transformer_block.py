"""The block of encoders and of decoders that attend to an encoder: BERT, T5 and the original transformer.

Self-attention, attention to the encoder's output where there is one, and an MLP, each added to the residual stream.
The sharding rules of its parameters are here too, as all three models have them.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from research.core.mesh import BATCH_AXES, constrain
from research.models.layers.attention import CrossAttention, SelfAttention, segment_mask
from research.models.layers.cache import CACHE, CachePositions
from research.models.layers.feed_forward import ActivationKind, FeedForward
from research.models.layers.norm import Norm, NormKind

RESIDUAL = (BATCH_AXES, "context", None)  # where the residual stream lives, [batch length width]
SHARDING = (
    (r"(attention/(query|key_value|query_key_value)|mlp/(up|gate))/kernel$", P("fsdp", "tensor")),
    (r"(attention/(query|key_value|query_key_value)|mlp/(up|gate))/bias$", P("tensor")),
    (r"(attention/output|mlp/down)/kernel$", P("tensor", "fsdp")),
    (r"(attention/output|mlp/down)/bias$", P()),
    (r"norm/(scale|bias)$", P()),
)


class TransformerBlock(nn.Module):
    """A block with the norm after each sum (Vaswani et al. 2017) or, `norm_first`, before each sublayer.

    Where `cache_positions` are given, self-attention goes through its cache and `mask` is not read.
    """

    heads: int
    mlp_dim: int
    activation: ActivationKind
    norm: NormKind
    bias: bool
    epsilon: float
    dropout: float
    norm_first: bool
    kernel_init: Initializer
    crossing: bool = False
    """whether the block attends to an encoder's output"""
    head_dim: int = 0
    """features of a head (0: width / heads)"""
    scale: float | None = None
    """of the products of queries and keys (None: head_dim^-0.5)"""
    joined_init: Initializer | None = None
    """of the joined kernel of queries, keys and values (None: kernel_init)"""
    query_init: Initializer | None = None
    """of the kernel of the queries to the encoder's output (None: kernel_init)"""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        mask: Bool[Array, "#batch length length"] | None,
        train: bool,
        encoded: Float[Array, "batch keys encoded"] | None = None,
        encoded_mask: Bool[Array, "#batch length keys"] | None = None,
        score_bias: Float[Array, "#batch heads length scored"] | None = None,
        cache_positions: CachePositions | None = None,
    ) -> Float[Array, "batch length width"]:
        rest: dict[str, Any] = {"head_dim": self.head_dim, "scale": self.scale}
        inits = (self.kernel_init, self.kernel_init)
        attention = SelfAttention(
            self.heads,
            self.heads,
            None,
            self.bias,
            self.dropout,
            self.joined_init or self.kernel_init,
            self.kernel_init,
            **rest,
            name="attention",
        )
        x = self._add(x, "attention", lambda x: attention(x, mask, None, train, cache_positions, score_bias))
        if self.crossing:
            assert encoded_mask is not None
            cross = CrossAttention(
                self.heads,
                self.bias,
                self.dropout,
                *inits,
                **rest,
                query_init=self.query_init,
                name="cross_attention",
            )
            x = self._add(
                x, "cross_attention", lambda x: cross(x, encoded, encoded_mask, train, cache_positions is not None)
            )
        mlp = FeedForward(self.mlp_dim, self.activation, self.bias, self.dropout, *inits, name="mlp")
        return self._add(x, "mlp", lambda x: mlp(x, train))

    def _add(self, x: Any, name: str, sublayer: Any) -> Any:
        norm = Norm(self.norm, self.bias, self.epsilon, name=f"{name}_norm")
        return constrain(x + sublayer(norm(x)) if self.norm_first else norm(x + sublayer(x)), *RESIDUAL)


def encoded_mask(
    module: nn.Module,
    inputs: Int[Array, "batch keys"] | None,
    segments: Int[Array, "batch keys"] | None,
    decoder_inputs: Int[Array, "batch length"],
    decoder_segments: Int[Array, "batch length"] | None,
    cached: bool,
) -> Bool[Array, "batch length keys"]:
    """Each position of the decoder sees the source of its own segment, 1 where none are given.

    Where the module is `cached` it remembers the segments of the source, as later steps have no `inputs`.
    """

    def sources() -> Array:
        assert inputs is not None
        return jnp.ones_like(inputs) if segments is None else segments

    keys = module.variable(CACHE, "segments", sources).value if cached else sources()
    return segment_mask(jnp.ones_like(decoder_inputs) if decoder_segments is None else decoder_segments, keys)
