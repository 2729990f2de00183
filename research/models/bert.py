"""BERT: a bidirectional transformer encoder (Devlin et al. 2019), with one of five heads.

The options cover RoBERTa (Liu et al. 2019), DistilBERT (Sanh et al. 2019) and sentence embeddings by mean pooling
(Reimers & Gurevych 2019, such as MiniLM). A row may hold several packed examples: `segments` keep them apart, and
`starts` says where each begins. `research/hub/bert.py` fills a configuration and its parameters from published weights.
"""

import dataclasses
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from research.core import ranges
from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, constrain
from research.core.ranges import Below1, Depth, Epsilon, Heads, Length, OptionalVocabulary, OptionalWidth, Range, Width
from research.core.shapes import Spec
from research.models.layers.attention import check_heads, segment_mask
from research.models.layers.dense import Dense, tied_logits
from research.models.layers.feed_forward import ACTIVATIONS, ActivationKind
from research.models.layers.norm import Norm
from research.models.layers.transformer_block import RESIDUAL, TransformerBlock
from research.models.layers.transformer_block import SHARDING as BLOCK_SHARDING
from research.models.model import Model, functional

SHARDING = (
    *BLOCK_SHARDING,
    (r"token_embedding$", P("tensor", "fsdp")),
    (r"(position|token_type)_embedding$", P(None, "fsdp")),
    (r"(head|transform|pooler)/kernel$", P("fsdp", "tensor")),
    (r"(head|transform|pooler)/bias$|head_bias$", P("tensor")),
)
HeadKind = Literal["masked", "sequence", "token", "span", "embedding"]
PoolingKind = Literal["first", "mean"]


@dataclasses.dataclass(frozen=True)
class BERT:
    """Sizes and options of a BERT."""

    depth: Depth = 4
    """transformer blocks"""
    width: Width = 128
    """features of the residual stream"""
    heads: Heads = 4
    """heads of each attention"""
    mlp_dim: OptionalWidth = 0
    """features inside the MLP (0: 4 x width)"""
    context: Length = 64
    """the longest example"""
    vocabulary: OptionalVocabulary = 0
    """token ids (0: as many as the data's outputs; otherwise those are the labels)"""
    token_types: Annotated[int, Range(0, 1024)] = 2
    """kinds of tokens, such as those of the first and the second sentence of a pair (0: none, as in DistilBERT)"""
    head: HeadKind = "masked"
    """what comes out: the vocabulary's logits at each position; logits of the labels for each example or each position;
    logits of the first and the last position of an answer; or a vector for each example"""
    pooling: PoolingKind = "first"
    """sequence, embedding: what represents an example, its first position or the mean of all"""
    pooler: bool = True
    """sequence: whether a dense layer and its activation come before the classifier"""
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    tied: bool = True
    """masked: whether the output head is the token embedding"""
    padding: Annotated[int, Range(-1, 2**24)] = -1
    """RoBERTa: the id of its padding token, which is not counted in positions; its vector of positions is the row of
    this number, and the others follow (-1: every token is counted, from row 0)"""
    activation: ActivationKind = "exact_gelu"
    epsilon: Epsilon = 1e-12
    """added to the variance in each norm"""
    dropout: Below1 = 0.0
    remat: bool = False
    """recompute each block's activations in the backward pass: less memory, a third more compute"""

    def check(self) -> None:
        """Raises UserError for sizes that do not fit one another."""
        check_heads(self.width, self.heads)
        if self.head in ("sequence", "token") and not self.vocabulary:
            raise UserError(
                f"The outputs of the head {self.head!r} are labels: set --model.vocabulary to the number of token ids."
            )

    def build(self, spec: Spec) -> Model:
        """Builds the model for `spec.size` labels, or where `vocabulary` is 0 for so many tokens."""
        ranges.check(self, within="model")
        if self.head in ("masked", "sequence", "token") and spec.size < 1:
            raise UserError(f"The head {self.head!r} needs at least one output, not {spec.size}.")
        return functional(BERTModule(self, spec.size), SHARDING)


class BERTModule(nn.Module):
    """Token ids to what the head gives."""

    config: BERT
    outputs: int

    @nn.compact
    def __call__(
        self,
        inputs: Int[Array, "batch length"],
        train: bool = False,
        segments: Int[Array, "batch length"] | None = None,
        positions: Int[Array, "batch length"] | None = None,
        token_types: Int[Array, "batch length"] | None = None,
        starts: Int[Array, "batch examples"] | None = None,
    ) -> Float[Array, "batch ..."]:
        """Applies the encoder and the head.

        Args:
            inputs: token ids.
            train: whether dropout falls.
            segments: the example that each token belongs to, from 1; 0 is padding (default: one example a row).
            positions: of the tokens in their examples (default: 0, 1, ... along the row).
            token_types: kinds of the tokens (default: 0).
            starts: sequence, embedding: the position in the row where each example begins (default: the first one
                that is not padding).

        Raises:
            UserError: the rows are longer than `context`, and no positions are given.
        """
        c = self.config
        x, embedding = self._embed(inputs, positions, token_types)
        x = nn.Dropout(c.dropout, deterministic=not train)(constrain(x, *RESIDUAL))
        mask = jnp.ones((1, x.shape[1], x.shape[1]), bool) if segments is None else segment_mask(segments, segments)
        block = nn.remat(TransformerBlock, static_argnums=(3,)) if c.remat else TransformerBlock
        for index in range(c.depth):
            layer = block(
                c.heads,
                c.mlp_dim or 4 * c.width,
                c.activation,
                "layer",
                True,
                c.epsilon,
                c.dropout,
                False,
                nn.initializers.truncated_normal(0.02),
                name=f"block_{index}",
            )
            x = layer(x, mask, train)
        if c.head == "masked":
            return self._masked(x, embedding)
        if c.head in ("sequence", "embedding"):
            x = self._pool(x, jnp.ones_like(inputs) if segments is None else segments, starts)
            if c.head == "embedding":
                return x
            if c.pooler:
                x = {"tanh": jnp.tanh, "relu": nn.relu}[c.pooler_activation](self._dense(c.width, "pooler")(x))
        x = nn.Dropout(c.dropout, deterministic=not train)(x)
        return self._dense(2 if c.head == "span" else self.outputs, "head")(x)

    def _dense(self, outputs: int, name: str, bias: bool = True) -> Dense:
        return Dense(outputs, bias, nn.initializers.truncated_normal(0.02), name=name)

    def _embed(self, inputs: Any, positions: Any, token_types: Any) -> tuple[Array, Array]:
        """Returns the normalised sum of the embeddings of tokens, positions and types, and the table of tokens."""
        c = self.config

        def table(name: str, rows: int) -> Array:
            return self.param(name, nn.initializers.truncated_normal(0.02), (rows, c.width), jnp.float32)

        embedding = constrain(table("token_embedding", c.vocabulary or self.outputs), "tensor", None)
        if positions is None:
            if inputs.shape[1] > c.context:
                raise UserError(
                    f"The rows of {inputs.shape[1]} tokens are longer than the model's context of {c.context}: "
                    f"shorten them, or set --model.context {inputs.shape[1]} for a model trained from scratch."
                )
            counted = inputs != c.padding
            positions = jnp.cumsum(counted, axis=1) * counted - 1
        x = embedding[inputs]
        x += table("position_embedding", c.context + c.padding + 1)[positions + c.padding + 1]
        if c.token_types:
            types = table("token_type_embedding", c.token_types)
            x += types[0] if token_types is None else types[token_types]
        return Norm("layer", epsilon=c.epsilon, name="embedding_norm")(x), embedding

    def _masked(self, x: Any, embedding: Any) -> Array:
        c = self.config
        x = ACTIVATIONS[c.activation](self._dense(c.width, "transform")(x))
        x = Norm("layer", epsilon=c.epsilon, name="transform_norm")(x)
        vocabulary = embedding.shape[0]
        logits = tied_logits(x, embedding) if c.tied else self._dense(vocabulary, "head", bias=False)(x)
        logits += self.param("head_bias", nn.initializers.zeros, (vocabulary,), jnp.float32).astype(x.dtype)
        return constrain(logits, BATCH_AXES, "context", "tensor")

    def _pool(self, x: Any, segments: Any, starts: Any) -> Array:
        """Returns the vector of each example, [batch examples width]."""
        if starts is None:
            starts = (segments > 0).argmax(1, keepdims=True)
        if self.config.pooling == "first":
            return jnp.take_along_axis(x, starts[..., None], axis=1)
        numbers = jnp.take_along_axis(segments, starts, axis=1)
        member = (segments[:, None] == numbers[..., None]).astype(x.dtype)
        return member @ x / member.sum(-1, keepdims=True)
