"""The original transformer: an encoder-decoder with sinusoidal positions (Vaswani et al. 2017).

Post-norm as published, or pre-norm by `norm_first`. The options cover the translation models of Marian
(Junczys-Dowmunt et al. 2018), whose published weights `research/hub/marian.py` reads.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from research.core import ranges
from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, constrain
from research.core.ranges import (
    Below1,
    Depth,
    Epsilon,
    Heads,
    Length,
    OptionalDepth,
    OptionalVocabulary,
    OptionalWidth,
    Width,
)
from research.core.shapes import Spec
from research.models.layers.attention import causal_mask, segment_mask
from research.models.layers.cache import CachePositions
from research.models.layers.dense import Dense, tied_logits
from research.models.layers.feed_forward import ActivationKind
from research.models.layers.norm import Norm
from research.models.layers.transformer_block import RESIDUAL, TransformerBlock, encoded_mask
from research.models.layers.transformer_block import SHARDING as BLOCK_SHARDING
from research.models.model import Model, functional

SHARDING = (
    *BLOCK_SHARDING,
    (r"(token|source)_embedding$", P("tensor", "fsdp")),
    (r"head/kernel$", P("fsdp", "tensor")),
    (r"head_bias$", P("tensor")),
)
Sinusoid = Literal["interleaved", "halves"]


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Sizes and options of an encoder-decoder transformer."""

    depth: Depth = 4
    """blocks of the encoder"""
    decoder_depth: OptionalDepth = 0
    """blocks of the decoder (0: as many)"""
    width: Width = 128
    """features of the residual stream"""
    heads: Heads = 4
    """heads of each attention"""
    mlp_dim: OptionalWidth = 0
    """features inside the MLP (0: 4 x width)"""
    context: Length = 64
    """the longest source and the longest target"""
    source_vocabulary: OptionalVocabulary = 0
    """token ids of the source where it has an embedding of its own (0: it shares that of the target)"""
    sinusoid: Sinusoid = "interleaved"
    """the order of the sines and cosines of positions: alternating, or all sines first (Marian)"""
    scaled_embedding: bool = True
    """whether token embeddings are multiplied by the square root of the width"""
    norm_first: bool = False
    """whether each sublayer normalises its inputs instead of the sum, and each stack its output"""
    activation: ActivationKind = "relu"
    epsilon: Epsilon = 1e-5
    """added to the variance in each norm"""
    tied: bool = True
    """whether the output head is the token embedding of the target"""
    head_bias: bool = False
    """whether the logits have a bias (Marian)"""
    dropout: Below1 = 0.0
    remat: bool = False
    """recompute each block's activations in the backward pass: less memory, a third more compute"""

    def check(self) -> None:
        """Raises UserError for sizes that do not fit one another."""
        if self.width % self.heads or self.width % 2:
            unit = self.heads if self.heads % 2 == 0 else 2 * self.heads
            raise UserError(
                f"The width {self.width} is not divisible by {self.heads} heads and by 2, for sines and cosines: set "
                f"for example --model.width {-(-self.width // unit) * unit}."
            )

    def build(self, spec: Spec) -> Model:
        """Builds the model for a (target) vocabulary of `spec.size` tokens."""
        ranges.check(self, within="model")
        module = TransformerModule(self, spec.size)
        return functional(module, SHARDING, cached=True, context=self.context, tokens="decoder_inputs")


class TransformerModule(nn.Module):
    """Token ids of a source and of a target so far, to next-token logits of the target."""

    config: Transformer
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
            positions, decoder_positions: of the tokens in their examples (default: 0, 1, ... along the row).
            cache_positions: where the target's tokens are in the cache.

        Raises:
            UserError: rows are longer than `context`, and no positions are given.
        """
        c = self.config
        decoder_inputs = inputs if decoder_inputs is None else decoder_inputs
        assert decoder_inputs is not None
        target_table = self._table("token_embedding", self.vocabulary)
        source_table = self._table("source_embedding", c.source_vocabulary) if c.source_vocabulary else target_table
        encoded = None
        if inputs is not None:
            length = inputs.shape[1]
            seen = jnp.ones((1, length, length), bool) if segments is None else segment_mask(segments, segments)
            encoded = self._stack("encoder", self._embed(source_table, inputs, positions), seen, train)
        source = encoded_mask(self, inputs, segments, decoder_inputs, decoder_segments, cache_positions is not None)
        length = decoder_inputs.shape[1]
        if cache_positions is not None:
            decoder_positions = cache_positions.text_positions(length)
        x = self._embed(target_table, decoder_inputs, decoder_positions)
        mask = causal_mask(length, decoder_segments) if cache_positions is None else None
        x = self._stack(
            "decoder", x, mask, train, encoded=encoded, encoded_mask=source, cache_positions=cache_positions
        )
        return self._logits(x, target_table)

    def _table(self, name: str, rows: int) -> Array:
        c = self.config
        table = self.param(name, nn.initializers.normal(c.width**-0.5), (rows, c.width), jnp.float32)
        return constrain(table, "tensor", None)

    def _embed(self, table: Any, tokens: Any, positions: Any) -> Array:
        c = self.config
        if positions is None:
            if tokens.shape[1] > c.context:
                raise UserError(
                    f"The rows of {tokens.shape[1]} tokens are longer than the model's context of {c.context}: "
                    f"shorten them, or set --model.context {tokens.shape[1]}."
                )
            positions = jnp.arange(tokens.shape[1])[None]
        x = table[tokens] * (c.width**0.5 if c.scaled_embedding else 1.0)
        return x + jnp.asarray(sinusoids(c.context, c.width, c.sinusoid), x.dtype)[positions]

    def _stack(self, name: str, x: Any, mask: Any, train: bool, **rest: Any) -> Array:
        """Applies the blocks of the encoder or the decoder."""
        c = self.config
        x = nn.Dropout(c.dropout, deterministic=not train)(constrain(x, *RESIDUAL))
        block = nn.remat(TransformerBlock, static_argnums=(3,)) if c.remat else TransformerBlock
        for index in range(c.depth if name == "encoder" else c.decoder_depth or c.depth):
            layer = block(
                c.heads,
                c.mlp_dim or 4 * c.width,
                c.activation,
                "layer",
                True,
                c.epsilon,
                c.dropout,
                c.norm_first,
                nn.initializers.xavier_uniform(),
                crossing=name == "decoder",
                name=f"{name}_{index}",
            )
            x = layer(x, mask, train, **rest)
        return Norm("layer", epsilon=c.epsilon, name=f"{name}_norm")(x) if c.norm_first else x

    def _logits(self, x: Any, table: Any) -> Array:
        c = self.config
        if c.tied:
            logits = tied_logits(x, table)
        else:
            normal = nn.initializers.normal(c.width**-0.5)
            logits = Dense(self.vocabulary, bias=False, kernel_init=normal, name="head")(x)
        if c.head_bias:
            bias = self.param("head_bias", nn.initializers.zeros, (self.vocabulary,), jnp.float32)
            logits += bias.astype(logits.dtype)
        return constrain(logits, BATCH_AXES, "context", "tensor")


def sinusoids(length: int, width: int, layout: Sinusoid) -> Float[np.ndarray, "length width"]:
    """Returns sin(p / 10000^(2i/width)) and the cosine for each position p and pair i (Vaswani et al. 2017, 3.5)."""
    angles = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(0, width, 2) / width)
    waves = [np.sin(angles), np.cos(angles)]
    return np.stack(waves, -1).reshape(length, width) if layout == "interleaved" else np.concatenate(waves, -1)
