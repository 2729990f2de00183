"""GPT: a decoder-only transformer language model (Radford et al. 2019), with the options of its descendants.

Learned or rotary positions, grouped-query attention, GELU or SwiGLU, a mixture of experts, LayerNorm or RMSNorm, tied
or free head. The blocks are pre-norm; residual projections start smaller by sqrt(2 depth), as in GPT-2. On a mesh the
positions are split over `context`; heads, MLP and vocabulary over `tensor`, in pairs of a product split by columns and
one by rows (Shoeybi et al. 2019, Megatron-LM); experts over `expert`.
"""

import dataclasses
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from research.core import ranges
from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, constrain
from research.core.ranges import (
    AtLeast0,
    Below1,
    Depth,
    Epsilon,
    Heads,
    Length,
    OptionalHeads,
    OptionalWidth,
    Range,
    Width,
)
from research.core.shapes import Spec
from research.models.layers.attention import SelfAttention, causal_mask, check_heads
from research.models.layers.cache import CACHE, CachePositions
from research.models.layers.dense import Dense, tied_logits
from research.models.layers.experts import Experts
from research.models.layers.feed_forward import GATES, ActivationKind, FeedForward
from research.models.layers.norm import Norm, NormKind
from research.models.layers.rotary import Rotary
from research.models.model import LOSSES, METRICS, Model, functional

RESIDUAL = (BATCH_AXES, "context", None)  # where the residual stream lives, [batch length width]
SHARDING = (
    (r"token_embedding$", P("tensor", "fsdp")),
    (r"position_embedding$", P(None, "fsdp")),
    (r"(query_key_value|mlp/(up|gate))/kernel$", P("fsdp", "tensor")),
    (r"(query_key_value|mlp/(up|gate))/bias$", P("tensor")),
    (r"(attention/output|mlp/down)/kernel$", P("tensor", "fsdp")),
    (r"(attention/output|mlp/down)/bias$", P()),
    (r"router/kernel$", P("fsdp", None)),
    (r"experts/(up|gate)/kernel$", P("expert", "fsdp", "tensor")),
    (r"experts/(up|gate)/bias$", P("expert", "tensor")),
    (r"experts/down/kernel$", P("expert", "tensor", "fsdp")),
    (r"experts/down/bias$", P("expert", None)),
    (r"norm/(scale|bias)$", P()),
    (r"head/kernel$", P("fsdp", "tensor")),
)


@dataclasses.dataclass(frozen=True)
class GPT:
    """Sizes and options of a GPT."""

    depth: Depth = 4
    """transformer blocks"""
    width: Width = 128
    """features of the residual stream"""
    heads: Heads = 4
    """query heads of each attention"""
    num_kv_heads: OptionalHeads = 0
    """key and value heads, each shared by heads / num_kv_heads query heads (0: one per query head)"""
    mlp_dim: OptionalWidth = 0
    """features inside the MLP (0: 4 x width, or 8/3 x width for gated activations)"""
    context: Length = 64
    """the longest sequence"""
    experts: Annotated[int, Range(0, 2**14)] = 0
    """MLPs of each block, of which every token uses a few (0: one MLP for all tokens)"""
    experts_per_token: Annotated[int, Range(1, 2**14)] = 2
    """experts that a token uses"""
    capacity_factor: Annotated[float, Range(0, 1000, above=True)] = 1.25
    """capacity of each expert, in multiples of an even division of a row's tokens; tokens beyond it skip the expert"""
    balance_weight: AtLeast0 = 0.01
    """weight of the loss that keeps the experts equally used"""
    positions: Literal["learned", "rotary"] = "learned"
    activation: ActivationKind = "gelu"
    norm: NormKind = "layer"
    epsilon: Epsilon = 1e-5
    """added to the variance in each norm"""
    tied: bool = True
    """whether the output head is the token embedding"""
    bias: bool = True
    """whether linear layers and layer norms have a bias"""
    dropout: Below1 = 0.0
    remat: bool = False
    """recompute each block's activations in the backward pass: less memory, a third more compute"""
    scan: bool = False
    """one compiled block scanned over stacked parameters: compiles in constant time in the depth"""

    def check(self) -> None:
        """Raises UserError for sizes that do not fit one another."""
        num_kv_heads = self.num_kv_heads or self.heads
        check_heads(self.width, self.heads)
        if self.heads % num_kv_heads:
            raise UserError(
                f"{self.heads} heads cannot share {num_kv_heads} key and value heads evenly: make "
                "--model.num-kv-heads a divisor."
            )
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise UserError(
                f"Rotary positions need an even head size, not {self.width // self.heads}: widen the model."
            )
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise UserError(
                f"A token cannot use {self.experts_per_token} of {self.experts} experts: set "
                f"--model.experts-per-token 1 to {self.experts}."
            )

    def build(self, spec: Spec) -> Model:
        """Builds the model for a vocabulary of `spec.size` tokens."""
        ranges.check(self, within="model")
        return functional(GPTModule(self, spec.size), SHARDING, cached=True, context=self.context)


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    config: GPT

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        mask: Any,
        positions: Int[Array, "batch length"],
        train: bool,
        cache_positions: CachePositions | None = None,
    ) -> tuple[Float[Array, "batch length width"], None]:
        c = self.config
        kernel_init = nn.initializers.normal(0.02)
        output_init = nn.initializers.normal(0.02 * (2 * c.depth) ** -0.5)
        attention = SelfAttention(
            c.heads,
            c.num_kv_heads or c.heads,
            Rotary() if c.positions == "rotary" else None,
            c.bias,
            c.dropout,
            kernel_init,
            output_init,
            name="attention",
        )
        mlp_dim = c.mlp_dim or (8 * c.width // 3 if c.activation in GATES else 4 * c.width)
        dense = (mlp_dim, c.activation, c.bias, c.dropout, kernel_init, output_init)
        mlp = (
            Experts(c.experts, c.experts_per_token, c.capacity_factor, c.balance_weight, *dense, name="experts")
            if c.experts
            else FeedForward(*dense, name="mlp")
        )
        norm = partial(Norm, c.norm, c.bias, c.epsilon)
        x = x + attention(norm(name="attention_norm")(x), mask, positions, train, cache_positions)
        x = constrain(x, *RESIDUAL)
        x = x + mlp(norm(name="mlp_norm")(x), train)
        return constrain(x, *RESIDUAL), None


class GPTModule(nn.Module):
    """Token ids to next-token logits."""

    config: GPT
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
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(length), inputs.shape)
            if cache_positions is not None:
                positions = cache_positions.text_positions(length)
        if c.positions == "learned":
            table = self.param("position_embedding", normal, (c.context, c.width), jnp.float32)
            x = x + constrain(table, None, None)[positions]
        x = nn.Dropout(c.dropout, deterministic=not train)(x)
        mask = causal_mask(length, segments) if cache_positions is None else None
        x = self._blocks(x, mask, positions, train, cache_positions)
        x = Norm(c.norm, c.bias, c.epsilon, name="final_norm")(x)
        if not c.tied:
            logits = Dense(self.vocabulary, bias=False, kernel_init=normal, name="head")(x)
        else:
            logits = tied_logits(x, embedding)
        return constrain(logits, BATCH_AXES, "context", "tensor")

    def _blocks(self, x: Any, mask: Any, positions: Any, train: bool, cache_positions: CachePositions | None) -> Any:
        c = self.config
        block = nn.remat(Block, prevent_cse=not c.scan, static_argnums=(4,)) if c.remat else Block
        if c.scan:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0, LOSSES: 0, METRICS: 0, CACHE: 1},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,
                length=c.depth,
            )
            return scanned(c, name="blocks")(x, mask, positions, train, cache_positions)[0]
        for index in range(c.depth):
            x, _ = block(c, name=f"block_{index}")(x, mask, positions, train, cache_positions)
        return x
