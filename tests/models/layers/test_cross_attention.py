"""Attention to another sequence: the weights that it shows when asked, and that showing them changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.models.layers.attention import CrossAttention
from research.models.model import ATTENTION

HEADS, HEAD, WIDTH, SOURCE, TARGET = 2, 3, 8, 5, 4
INIT = nn.initializers.normal(1.0)
MASK = jnp.arange(SOURCE) < jnp.array([SOURCE, 3])[:, None, None]  # the second source has two tokens of padding


def inputs():
    draw = np.random.default_rng(0)
    return tuple(jnp.asarray(draw.standard_normal((2, size, WIDTH), np.float32)) for size in (TARGET, SOURCE))


@pytest.mark.parametrize("scale", [None, 0.7])
def test_shown_weights_are_the_softmax_of_the_scaled_products(scale):
    """For each head, computed here from the kernels alone; padding has weight 0."""
    x, encoded = inputs()
    layer = CrossAttention(HEADS, False, 0.0, INIT, INIT, HEAD, scale)
    mask = jnp.broadcast_to(MASK, (2, TARGET, SOURCE))
    params = layer.init(jax.random.key(0), x, encoded, mask, False)["params"]
    _, state = layer.apply({"params": params}, x, encoded, mask, False, mutable=[ATTENTION])
    weights = state[ATTENTION]["weights"]
    assert weights.shape == (2, HEADS, TARGET, SOURCE)
    kernels = [np.asarray(params[name]["kernel"], np.float64) for name in ("query", "key_value")]
    query = (np.asarray(x) @ kernels[0]).reshape(2, TARGET, HEADS, HEAD)
    key = (np.asarray(encoded) @ kernels[1]).reshape(2, SOURCE, HEADS, 2, HEAD)[:, :, :, 0]
    scores = np.einsum("bthd,bshd->bhts", query, key) * (HEAD**-0.5 if scale is None else scale)
    expected = np.exp(scores) * np.asarray(mask)[:, None]
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)
    assert (np.asarray(weights)[1, ..., 3:] == 0).all()


def test_weights_are_shown_when_asked_for_alone():
    """Asked or not, the outputs have the same bits; not asked, nothing is computed or kept."""
    x, encoded = inputs()
    layer = CrossAttention(HEADS, False, 0.0, INIT, INIT)
    mask = jnp.broadcast_to(MASK, (2, TARGET, SOURCE))
    params = {"params": layer.init(jax.random.key(0), x, encoded, mask, False)["params"]}
    plain = layer.apply(params, x, encoded, mask, False)
    shown, state = layer.apply(params, x, encoded, mask, False, mutable=[ATTENTION])
    np.testing.assert_array_equal(plain, shown)
    computed = str(jax.make_jaxpr(lambda params: layer.apply(params, x, encoded, mask, False))(params))
    assert computed.count("dot_general") == 5  # queries, keys with values, scores, their sum, output
    assert state and not layer.apply(params, x, encoded, mask, False, mutable=["other"])[1]
