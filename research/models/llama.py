"""Llama and its relatives: decoder-only language models with rotary positions, RMSNorm and gated MLPs.

The options cover Llama 3 (Grattafiori et al. 2024), Mistral (Jiang et al. 2023: a window on all layers), Qwen 2 (Yang
et al. 2024: biases of queries, keys and values), Qwen 3 (Yang et al. 2025: a norm on each query and key) and the text
model of Gemma 3 (Kamath et al. 2025: norms after each sublayer as well, scaled embeddings, windows on most layers).
`research/hub/llama.py` fills a configuration and its parameters from published weights. On a mesh it is split as GPT
is.
"""

import dataclasses
from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from research.core import ranges
from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, constrain
from research.core.ranges import Below1, Depth, Epsilon, Heads, Length, OptionalHeads, OptionalWidth, Range, Width
from research.core.shapes import Spec
from research.models.layers.attention import SelfAttention, causal_mask, check_heads
from research.models.layers.cache import CachePositions
from research.models.layers.dense import Dense, tied_logits
from research.models.layers.feed_forward import ActivationKind, FeedForward
from research.models.layers.norm import Norm
from research.models.layers.rotary import Rotary
from research.models.model import Model, functional

RESIDUAL = (BATCH_AXES, "context", None)  # where the residual stream lives, [batch length width]
SHARDING = (
    (r"token_embedding$", P("tensor", "fsdp")),
    (r"(query_key_value|mlp/(up|gate))/kernel$", P("fsdp", "tensor")),
    (r"(query_key_value|mlp/(up|gate))/bias$", P("tensor")),
    (r"(attention/output|mlp/down)/kernel$", P("tensor", "fsdp")),
    (r"(attention/output|mlp/down)/bias$", P()),
    (r"norm/scale$", P()),
    (r"head/kernel$", P("fsdp", "tensor")),
)


@dataclasses.dataclass(frozen=True)
class Llama:
    """Sizes and options of a Llama."""

    depth: Depth = 4
    """transformer blocks"""
    width: Width = 128
    """features of the residual stream"""
    heads: Heads = 4
    """query heads of each attention"""
    num_kv_heads: OptionalHeads = 0
    """key and value heads, each shared by heads / num_kv_heads query heads (0: one per query head)"""
    head_dim: OptionalWidth = 0
    """features of an attention head (0: width / heads)"""
    mlp_dim: OptionalWidth = 0
    """features inside the MLP (0: 8/3 x width)"""
    context: Length = 64
    """the longest sequence that it is meant for"""
    rotary: Rotary = Rotary()
    """how positions turn queries and keys"""
    window: Annotated[int, Range(0, 2**24)] = 0
    """positions that each one sees, itself included, in all but the global blocks (0: all)"""
    global_blocks: tuple[Annotated[int, Range(0, 999)], ...] = ()
    """where there is a window: the blocks, counted from 0, that see everything"""
    window_rotary: Rotary = Rotary()
    """how positions turn queries and keys in the blocks with a window"""
    query_key_norm: bool = False
    """whether each query and key is normalised (Qwen 3, Gemma 3)"""
    query_scale: OptionalWidth = 0
    """what the products of queries and keys are divided by the square root of (0: the features of a head)"""
    output_norms: bool = False
    """whether attention and MLP are normalised before they are added to the residual stream, too (Gemma 3)"""
    scaled_embedding: bool = False
    """whether token embeddings are multiplied by the square root of the width (Gemma 3)"""
    activation: ActivationKind = "swiglu"
    epsilon: Epsilon = 1e-6
    """added to the mean square in each norm"""
    tied: bool = False
    """whether the output head is the token embedding"""
    attention_bias: bool = False
    """whether the projections of the attention have a bias"""
    attention_output_bias: bool | None = None
    """whether the last of them, the output, has one (None: as the others)"""
    mlp_bias: bool = False
    """whether the projections of the MLP have a bias"""
    dropout: Below1 = 0.0
    remat: bool = False
    """recompute each block's activations in the backward pass: less memory, a third more compute"""

    @property
    def resolved_head_dim(self) -> int:
        """Features of an attention head, as given or as they follow from the width."""
        return self.head_dim or self.width // self.heads

    @property
    def output_bias(self) -> bool:
        """Whether the output of the attention has a bias."""
        return self.attention_bias if self.attention_output_bias is None else self.attention_output_bias

    def windowed(self, block: int) -> bool:
        """Whether a block sees no further than its window."""
        return self.window > 0 and block not in self.global_blocks

    def check(self) -> None:
        """Raises UserError for sizes that do not fit one another."""
        num_kv_heads = self.num_kv_heads or self.heads
        if not self.head_dim:
            check_heads(self.width, self.heads, free=True)
        if self.heads % num_kv_heads:
            raise UserError(
                f"{self.heads} heads cannot share {num_kv_heads} key and value heads evenly: make "
                "--model.num-kv-heads a divisor."
            )
        if self.resolved_head_dim % 2:
            raise UserError(
                f"Rotary positions need an even head size, not {self.resolved_head_dim}: set --model.head-dim."
            )

    def build(self, spec: Spec) -> Model:
        """Builds the model for a vocabulary of `spec.size` tokens."""
        ranges.check(self, within="model")
        # Beyond it a longer text turns its first keys otherwise, but a cache keeps them as they were.
        dynamic = [each.original_context for each in (self.rotary, self.window_rotary) if each.scaling == "dynamic"]
        return functional(LlamaModule(self, spec.size), SHARDING, cached=True, context=min(dynamic, default=0))


class Block(nn.Module):
    """Attention and MLP, each normalised before, and by option after, and added to the residual stream."""

    config: Llama
    windowed: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        mask: Bool[Array, "#batch length length"] | None,
        positions: Int[Array, "batch length"],
        train: bool,
        cache_positions: CachePositions | None = None,
    ) -> Float[Array, "batch length width"]:
        c = self.config
        kernel_init = nn.initializers.normal(0.02)
        output_init = nn.initializers.normal(0.02 * (2 * c.depth) ** -0.5)
        norm = partial(Norm, "rms", epsilon=c.epsilon)
        attended = SelfAttention(
            c.heads,
            c.num_kv_heads or c.heads,
            c.window_rotary if self.windowed else c.rotary,
            c.attention_bias,
            c.dropout,
            kernel_init,
            output_init,
            head_dim=c.resolved_head_dim,
            scale=(c.query_scale or c.resolved_head_dim) ** -0.5,
            query_key_norm=c.epsilon if c.query_key_norm else None,
            window=c.window if self.windowed else 0,
            output_bias=c.output_bias,
            name="attention",
        )(norm(name="attention_norm")(x), mask, positions, train, cache_positions)
        if c.output_norms:
            attended = norm(name="attention_output_norm")(attended)
        x = constrain(x + attended, *RESIDUAL)
        mlp_dim = c.mlp_dim or 8 * c.width // 3
        mlp = FeedForward(mlp_dim, c.activation, c.mlp_bias, c.dropout, kernel_init, output_init, name="mlp")
        fed = mlp(norm(name="mlp_norm")(x), train)
        if c.output_norms:
            fed = norm(name="mlp_output_norm")(fed)
        return constrain(x + fed, *RESIDUAL)


class LlamaModule(nn.Module):
    """Token ids to next-token logits."""

    config: Llama
    vocabulary: int

    @nn.compact
    def __call__(
        self,
        inputs: Int[Array, "batch length"],
        train: bool = False,
        segments: Int[Array, "batch length"] | None = None,
        positions: Int[Array, "batch length"] | None = None,
        cache_positions: CachePositions | None = None,
    ) -> Float[Array, "batch length vocabulary"]:
        """`segments` (document numbers) confine attention; `positions` default to 0, 1, ...; with `cache_positions` the
        cache is used."""
        c = self.config
        length = inputs.shape[1]
        normal = nn.initializers.normal(0.02)
        embedding = self.param("token_embedding", normal, (self.vocabulary, c.width), jnp.float32)
        embedding = constrain(embedding, "tensor", None)  # split by rows: each device looks up its own
        x = constrain(embedding[inputs], *RESIDUAL)
        if c.scaled_embedding:
            x = x * jnp.asarray(c.width**0.5, x.dtype)  # the factor is rounded, too, as in the published model
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(length), inputs.shape)
            if cache_positions is not None:
                positions = cache_positions.text_positions(length)
        x = nn.Dropout(c.dropout, deterministic=not train)(x)
        x = self._blocks(x, segments, positions, train, cache_positions)
        x = Norm("rms", epsilon=c.epsilon, name="final_norm")(x)
        if not c.tied:
            logits = Dense(self.vocabulary, bias=False, kernel_init=normal, name="head")(x)
        else:
            logits = tied_logits(x, embedding)
        return constrain(logits, BATCH_AXES, "context", "tensor")

    def _blocks(
        self, x: Any, segments: Any, positions: Any, train: bool, cache_positions: CachePositions | None
    ) -> Any:
        c = self.config
        masks = {}
        if cache_positions is None:
            masks = {True: causal_mask(x.shape[1], segments, c.window), False: causal_mask(x.shape[1], segments)}
        block = nn.remat(Block, static_argnums=(4,)) if c.remat else Block
        for index in range(c.depth):
            windowed = c.windowed(index)
            x = block(c, windowed, name=f"block_{index}")(x, masks.get(windowed), positions, train, cache_positions)
        return x
