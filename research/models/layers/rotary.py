"""Rotary position embedding (Su et al. 2021, RoFormer): queries and keys turned by position.

`Rotary` says how fast, and how a model is adapted to texts longer than those that it was first trained on.
"""

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
    scaling: Literal["none", "linear", "llama3", "yarn", "dynamic"] = "none"
    """how a model is adapted to longer texts: all turns slowed down (Chen et al. 2023), the slow ones (Llama 3; YaRN,
    Peng et al. 2024), or all but the fastest, the more the longer the text is (dynamic NTK, same paper)"""
    factor: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    """how many times longer"""
    original_context: Length = 8192
    """llama3, yarn, dynamic: positions that it began with"""
    low_frequency_factor: Above0 = 1.0
    """llama3, yarn: pairs that turn fewer times than this in the original context are slowed down fully"""
    high_frequency_factor: Above0 = 4.0
    """llama3, yarn: pairs that turn more often than this are left as they are"""
    attention_factor: Above0 = 1.0
    """yarn: what queries and keys are multiplied by"""
    whole_pairs: bool = True
    """yarn: whether the first and the last pair between these two are rounded to whole numbers"""

    def frequencies(
        self, head_dim: int, dtype: Any = jnp.float32, length: Int[Array, "*texts"] | int = 0
    ) -> Float[Array, "*texts half"]:
        """Returns the angle in radians by which each of the head_dim / 2 pairs turns from one position to the next.

        Args:
            head_dim: features of an attention head.
            dtype: of the angles.
            length: dynamic: positions of each text, which has its own angles.
        """
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
            case "yarn":
                first, last = (
                    self._pair(self.high_frequency_factor, head_dim),
                    self._pair(self.low_frequency_factor, head_dim),
                )
                if self.whole_pairs:
                    first, last = math.floor(first), math.ceil(last)
                first, last = max(first, 0), min(last, head_dim - 1)
                slowed = jnp.clip((jnp.arange(half, dtype=dtype) - first) / (last - first or 0.001), 0, 1)
                return (1 - slowed) * plain + slowed * plain / self.factor
            case "dynamic":
                longer = jnp.maximum(jnp.asarray(length, dtype) / self.original_context, 1)
                base = self.base * (self.factor * longer - (self.factor - 1)) ** (head_dim / max(head_dim - 2, 1))
                return base[..., None] ** (-jnp.arange(half, dtype=dtype) / half)

    def _pair(self, turns: float, head_dim: int) -> float:
        """Returns the number, with a fraction, of the pair that turns so many times in the original context."""
        return head_dim / 2 * math.log(self.original_context / (2 * math.pi * turns)) / math.log(self.base)


def rotate(
    x: Float[Array, "batch length heads head_dim"], positions: Int[Array, "batch length"], rotary: Rotary = Rotary()
) -> Float[Array, "batch length heads head_dim"]:
    """Turns feature pairs (i, i + d/2) by `positions * base^(-2i/d)`, d = head_dim: as in GPT-NeoX and Llama."""
    half = x.shape[-1] // 2
    dtype = at_least_float32(x.dtype)
    length = positions.max(-1, initial=0)[:, None, None] + 1 if rotary.scaling == "dynamic" else 0
    angles = positions[..., None, None].astype(dtype) * rotary.frequencies(x.shape[-1], dtype, length)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if rotary.scaling == "yarn":
        cos, sin = rotary.attention_factor * cos, rotary.attention_factor * sin
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
