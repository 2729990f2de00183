"""Rotary position embedding (Su et al. 2021, RoFormer): queries and keys turned by position."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.core.precision import at_least_float32
from research.core.ranges import Above0, Length, Range


@dataclasses.dataclass(frozen=True)
class Rotary:
    """How fast each pair of features turns with the position."""

    base: Annotated[float, Range(1, 1e12, above=True)] = 10_000.0
    scaling: Literal["none", "linear", "llama3"] = "none"
    """how a model is adapted to longer texts: all turns slowed down (Chen et al. 2023), or the slow ones (Llama 3)"""
    factor: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    """how many times longer"""
    original_context: Length = 8192
    """llama3: positions that it began with"""
    low_frequency_factor: Above0 = 1.0
    """llama3: pairs that turn fewer times than this in the original context are slowed down fully"""
    high_frequency_factor: Above0 = 4.0
    """llama3: pairs that turn more often than this are left as they are"""

    def frequencies(self, head_dim: int, dtype: Any = jnp.float32) -> Float[Array, "half"]:
        """Returns the angle in radians by which each of the head_dim / 2 pairs turns from one position to the next."""
        half = head_dim // 2
        plain = self.base ** (-jnp.arange(half, dtype=dtype) / half)
        match self.scaling:
            case "none":
                return plain
            case "linear":
                return plain / self.factor
            case "llama3":
                turns = self.original_context * plain / (2 * math.pi)
                low, high = self.low_frequency_factor, self.high_frequency_factor
                kept = jnp.clip((turns - low) / (high - low), 0, 1)
                return kept * plain + (1 - kept) * plain / self.factor


def rotate(
    x: Float[Array, "batch length heads head_dim"], positions: Int[Array, "batch length"], rotary: Rotary = Rotary()
) -> Float[Array, "batch length heads head_dim"]:
    """Turns feature pairs (i, i + d/2) by `positions * base^(-2i/d)`, d = head_dim: as in GPT-NeoX and Llama."""
    half = x.shape[-1] // 2
    dtype = at_least_float32(x.dtype)
    angles = positions[..., None, None].astype(dtype) * rotary.frequencies(x.shape[-1], dtype)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
