"""The precision policy: parameters and sums in float32, compute in the type asked for."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

ComputeType = Literal["float32", "bfloat16"]


def cast(tree: Any, dtype: ComputeType) -> Any:
    """Casts the floating-point leaves of a tree; norms, softmax and losses return to float32 by themselves."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def at_least_float32(dtype: Any) -> Any:
    """The type that norms and softmax compute in: float32 for what is narrower, float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)
