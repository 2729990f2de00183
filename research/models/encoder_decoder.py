"""A recurrent encoder-decoder with additive attention (Bahdanau, Cho & Bengio 2015), for translation and its like.

The encoder reads the source in both directions; at each step the decoder, a GRU, attends to the source.
Packed rows equal unpacked ones. `apply(..., attention=True)` returns the attention weights, in `Sown.attention`.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from research.core import ranges
from research.core.mesh import BATCH_AXES, constrain
from research.core.ranges import Below1, Depth, OptionalWidth, Width
from research.core.shapes import Spec
from research.models.layers.attention import segment_mask
from research.models.layers.cache import CACHE, CachePositions
from research.models.layers.dense import Dense
from research.models.layers.recurrent_cells import CELLS, RecurrentStack, beginnings, recurrent_parameters
from research.models.model import ATTENTION, Model, functional

SHARDING = (
    (r"token_embedding$", P("tensor", "fsdp")),
    (r"(input|keys|begin|readout|head)/kernel$", P("fsdp", "tensor")),
    (r"(recurrent|context|query|score)_kernel$", P("fsdp", None)),
    (r"(input/|keys/|begin/|readout/|head/|recurrent_)bias$", P()),
)


@dataclasses.dataclass(frozen=True)
class SequenceToSequence:
    """Sizes and options of a recurrent encoder-decoder; source and target share a vocabulary."""

    depth: Depth = 1
    """layers of the encoder"""
    width: Width = 128
    """features of the state of the decoder, and of each direction of the encoder"""
    embedding: OptionalWidth = 0
    """features of a token's vector (0: width)"""
    dropout: Below1 = 0.0
    """of what goes into each layer and into the head, never of the state"""

    def build(self, spec: Spec) -> Model:
        """Builds the model for a vocabulary of `spec.size` tokens."""
        ranges.check(self, within="model")
        return functional(SequenceToSequenceModule(self, spec.size), SHARDING, cached=True, tokens="decoder_inputs")


class Source(NamedTuple):
    """What the decoder knows of the source."""

    encoded: Float[Array, "batch keys encoded"]
    keys: Float[Array, "batch keys width"]
    """what the decoder's state is compared with"""
    mask: Bool[Array, "batch #length keys"]
    """where each position of the target may look"""
    beginning: Float[Array, "batch #length width"]
    """the state in which a target that starts at a position begins"""


class SequenceToSequenceModule(nn.Module):
    """Token ids of a source and of a target so far, to next-token logits of the target."""

    config: SequenceToSequence
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
            positions, decoder_positions: add nothing to the order of the tokens.
            cache_positions: where the target's tokens are in the cache, which holds the state before them.
        """
        c = self.config
        decoder_inputs = inputs if decoder_inputs is None else decoder_inputs
        assert decoder_inputs is not None
        features = c.embedding or c.width
        embedding = self.param("token_embedding", nn.initializers.normal(1.0), (self.vocabulary, features), jnp.float32)
        embedding = constrain(embedding, "tensor", None)  # split by rows: each device looks up its own

        def source() -> Source:
            assert inputs is not None
            alone = jnp.ones_like(decoder_inputs) if cache_positions is None else jnp.ones((len(inputs), 1), jnp.int32)
            targets = alone if decoder_segments is None else decoder_segments
            return self._encode(embedding[inputs], segments, targets, train)

        known = source() if cache_positions is None else self.variable(CACHE, "source", source).value
        y = nn.Dropout(c.dropout, deterministic=not train)(constrain(embedding[decoder_inputs], BATCH_AXES, None, None))
        resets = beginnings(y, decoder_segments, cache_positions)
        states, contexts, weights = AttentionDecoder(c.width, name="decoder")(y, known, resets, cache_positions)
        self.sow(ATTENTION, "weights", weights[:, None], init_fn=lambda: None, reduce_fn=lambda _, new: new)
        readout = jnp.tanh(Dense(c.width, name="readout")(jnp.concatenate([states, contexts, y], axis=-1)))
        logits = Dense(self.vocabulary, name="head")(nn.Dropout(c.dropout, deterministic=not train)(readout))
        return constrain(logits, BATCH_AXES, None, "tensor")

    def _encode(
        self,
        x: Float[Array, "batch keys features"],
        segments: Int[Array, "batch keys"] | None,
        targets: Int[Array, "batch #length"],
        train: bool,
    ) -> Source:
        """Encodes the source. The decoder's first state comes from the backward output at the source's first token."""
        c = self.config
        x = constrain(x, BATCH_AXES, None, None)
        read = RecurrentStack("gru", c.depth, c.width, True, c.dropout, name="encoder")(x, segments, train)
        encoded = jnp.concatenate(read, axis=-1)
        keys = Dense(c.width, name="keys")(encoded)
        mask = segment_mask(targets, jnp.ones(x.shape[:2], jnp.int32) if segments is None else segments)
        first = mask & ~jnp.pad(mask, ((0, 0), (0, 0), (1, 0)))[..., :-1]
        beginning = jnp.tanh(Dense(c.width, name="begin")(first.astype(x.dtype) @ read[1]))
        return Source(encoded, keys, mask, beginning)


class AttentionDecoder(nn.Module):
    """A GRU that reads, beside each token, the mean of the encoded source weighted by how well it fits the state.

    The weights are a softmax, in float32, over `score . tanh(query state + keys)` (Bahdanau et al. 2015, A.1.2).
    """

    width: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length features"],
        source: Source,
        resets: Bool[Array, "batch length"],
        cache_positions: CachePositions | None,
    ) -> tuple[
        Float[Array, "batch length width"], Float[Array, "batch length encoded"], Float[Array, "batch length keys"]
    ]:
        """Returns, at each position, the state, what was read of the source, and the weights of that reading."""
        gates, width, (batch, length, _) = CELLS["gru"].gates, self.width, x.shape
        from_input = Dense(gates * width, name="input")(x)
        kernel, bias = recurrent_parameters(self, "gru", width, x.dtype)
        context_kernel = self._kernel("context_kernel", source.encoded.shape[-1], gates * width, x.dtype)
        query_kernel = self._kernel("query_kernel", width, width, x.dtype)
        score_kernel = self._kernel("score_kernel", width, 1, x.dtype)

        def step(state: Array, now: Any) -> Any:
            from_input, reset, mask, beginning = now
            state = jnp.where(reset[:, None], beginning, state)
            compared = jnp.tanh((state @ query_kernel)[:, None] + source.keys)
            scores = (compared @ score_kernel)[..., 0].astype(jnp.float32)
            weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min))
            context = jnp.einsum("bk,bkw->bw", weights.astype(x.dtype), source.encoded)
            (state,) = CELLS["gru"].step(from_input + context @ context_kernel, state @ kernel + bias, (state,))
            return state, (state, context, weights)

        mask = jnp.broadcast_to(source.mask, (batch, length, source.mask.shape[2]))
        beginning = jnp.broadcast_to(source.beginning, (batch, length, width))
        stored = None if cache_positions is None else self.variable(CACHE, "state", jnp.zeros, (batch, width), x.dtype)
        state = jnp.zeros((batch, width), x.dtype) if stored is None else stored.value
        sequences = (from_input, resets, mask, beginning)
        state, outputs = jax.lax.scan(step, state, jax.tree.map(lambda each: each.swapaxes(0, 1), sequences))
        if stored is not None:
            stored.value = state
        return jax.tree.map(lambda each: each.swapaxes(0, 1), outputs)

    def _kernel(self, name: str, inputs: int, outputs: int, dtype: Any) -> Array:
        """A matrix of each time step, gathered from the mesh once for all of them."""
        kernel = self.param(name, nn.initializers.lecun_normal(), (inputs, outputs), jnp.float32)
        return constrain(kernel, None, None).astype(dtype)
