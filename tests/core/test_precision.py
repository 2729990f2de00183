"""The precision policy touches floating-point leaves and nothing else."""

import jax.numpy as jnp
import pytest

from research.core.precision import cast


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_floating_point_leaves_are_cast(dtype):
    """Integers and booleans keep their type, values within the type's precision their value."""
    found = cast({"a": jnp.full(2, 1.5), "b": {"ids": jnp.arange(3), "mask": jnp.ones(2, bool)}}, dtype)
    assert found["a"].dtype == dtype
    assert (found["a"] == 1.5).all()
    assert (found["b"]["ids"].dtype, found["b"]["mask"].dtype) == (jnp.int32, jnp.bool_)
