"""Rotary position embedding (Su et al. 2021, RoFormer): queries and keys turned by position."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(
    x: Float[Array, "batch length heads head"], positions: Int[Array, "batch length"], base: float = 10_000.0
) -> Float[Array, "batch length heads head"]:
    """Turns feature pairs (i, i + head/2) by `positions * base^(-2i/head)`: the layout of GPT-NeoX and Llama."""
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
