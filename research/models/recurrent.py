"""Recurrent networks for text: plain RNN, LSTM and GRU, stacked, as language models and as classifiers.

A language model reads from left to right; a classifier may read in both directions (Schuster & Paliwal 1997) and pools
its outputs. Packed rows equal unpacked ones: the state is reset with each segment.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from research.core import ranges
from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, constrain
from research.core.ranges import Below1, Depth, OptionalVocabulary, OptionalWidth, Width
from research.core.shapes import Spec
from research.models.layers.attention import segment_mask
from research.models.layers.cache import CachePositions
from research.models.layers.dense import Dense, tied_logits
from research.models.layers.recurrent_cells import CellKind, RecurrentStack
from research.models.model import Model, functional

SHARDING = (
    (r"token_embedding$", P("tensor", "fsdp")),
    (r"(input/|recurrent_)kernel$", P("fsdp", "tensor")),
    (r"(input/|recurrent_)bias$", P()),
    (r"head/kernel$", P("fsdp", "tensor")),
    (r"head/bias$", P("tensor")),
)
HEAD_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # that of torch.nn.Linear


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """Sizes and options of a recurrent network."""

    cell: CellKind = "lstm"
    depth: Depth = 1
    """layers, the inputs of each being the outputs of the one below"""
    width: Width = 256
    """features of a layer's state, in each direction"""
    embedding: OptionalWidth = 0
    """features of a token's vector (0: width)"""
    bidirectional: bool = False
    """whether a second stack of every layer reads from the end; for the head "sequence" alone"""
    dropout: Below1 = 0.0
    """of what goes into each layer and into the head, never of the state (Zaremba et al. 2014)"""
    head: Literal["language", "sequence"] = "language"
    """logits of the next token at each position, or `outputs` numbers for each example"""
    pooling: Literal["last", "mean"] = "last"
    """sequence: the output of each direction at its last token, or the mean over the example's tokens"""
    tied: bool = False
    """language: whether the output head is the token embedding"""
    vocabulary: OptionalVocabulary = 0
    """sequence: token ids that the data use"""

    def check(self) -> None:
        """Raises UserError for sizes and options that do not fit one another."""
        if self.head == "language":
            if self.bidirectional:
                raise UserError(
                    "A language model that reads from the end as well sees what it is to predict: leave "
                    "--model.bidirectional out, or set --model.head sequence."
                )
            if self.tied and self.embedding not in (0, self.width):
                raise UserError(
                    f"An embedding of {self.embedding} features cannot be the head of states of {self.width}: leave "
                    "--model.embedding out, or --model.tied."
                )
        elif self.vocabulary < 1 or self.tied:
            raise UserError(
                "A network with the head 'sequence' needs the size of its vocabulary and has no head to tie: set "
                "--model.vocabulary, and leave --model.tied out."
            )

    def build(self, spec: Spec) -> Model:
        """Builds the model for a vocabulary of `spec.size` tokens, or `spec.size` numbers an example."""
        ranges.check(self, within="model")
        return functional(RecurrentModule(self, spec.size), SHARDING, cached=self.head == "language")


class RecurrentModule(nn.Module):
    """Token ids to next-token logits, or to numbers for each example."""

    config: Recurrent
    outputs: int

    @nn.compact
    def __call__(
        self,
        inputs: Int[Array, "batch length"],
        train: bool = False,
        segments: Int[Array, "batch length"] | None = None,
        positions: Int[Array, "batch length"] | None = None,
        starts: Int[Array, "batch examples"] | None = None,
        cache_positions: CachePositions | None = None,
    ) -> Float[Array, "batch length vocabulary"] | Float[Array, "batch examples outputs"]:
        """`segments` separate the examples of a row, `starts` says where they begin; `positions` are not read.

        With the head "sequence" a row is one example where `starts` are not given.
        """
        c = self.config
        vocabulary, features = c.vocabulary or self.outputs, c.embedding or c.width
        # As PyTorch starts them: with small embeddings the states are small, and learning starts late.
        embedding_init = nn.initializers.normal(features**-0.5 if c.tied else 1.0)
        embedding = self.param("token_embedding", embedding_init, (vocabulary, features), jnp.float32)
        embedding = constrain(embedding, "tensor", None)  # split by rows: each device looks up its own
        x = constrain(embedding[inputs], BATCH_AXES, None, None)
        read = RecurrentStack(c.cell, c.depth, c.width, c.bidirectional, c.dropout, name="layers")(
            x, segments, train, cache_positions
        )
        dropout = nn.Dropout(c.dropout, deterministic=not train)
        if c.head == "sequence":
            pooled = dropout(_pooled(read, segments, starts, c.pooling))
            return constrain(Dense(self.outputs, name="head")(pooled), BATCH_AXES, None, None)
        x = dropout(read[0])
        head = Dense(vocabulary, kernel_init=HEAD_INIT, name="head")
        logits = tied_logits(x, embedding) if c.tied else head(x)
        return constrain(logits, BATCH_AXES, None, "tensor")


def _pooled(
    read: Sequence[Float[Array, "batch length width"]],
    segments: Int[Array, "batch length"] | None,
    starts: Int[Array, "batch examples"] | None,
    pooling: Literal["last", "mean"],
) -> Float[Array, "batch examples features"]:
    """What each direction has read of each example: at the end of its reading, or on average."""
    batch, length, _ = read[0].shape
    segments = jnp.ones((batch, length), jnp.int32) if segments is None else segments
    starts = jnp.zeros((batch, 1), jnp.int32) if starts is None else starts
    members = segment_mask(jnp.take_along_axis(segments, starts, axis=1), segments)
    count = members.sum(-1, keepdims=True)
    # Products with weights, not gathers, whose gradients would add up in an order that a device may choose.
    if pooling == "mean":
        weights = [members / count] * len(read)
    else:
        weights = [jnp.arange(length) == end for end in (starts[..., None] + count - 1, starts[..., None])]
    return jnp.concatenate([each.astype(x.dtype) @ x for each, x in zip(weights, read, strict=False)], axis=-1)
