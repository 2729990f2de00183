"""Named random streams: every key is a pure function of (seed, name, step).

A wide, flat tree of keys instead of a chain of splits: adding a consumer of randomness never shifts
another's numbers, and a resumed run draws exactly what an uninterrupted one draws.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key


def stream(seed: int, name: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """Returns the key of stream `name` at `step`; `step` may be traced."""
    key = jax.random.key(seed)
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)
