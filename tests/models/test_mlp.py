"""The MLP: its arithmetic, its initial values, its dropout."""

import jax
import jax.numpy as jnp
import numpy as np

from research.core.shapes import Spec
from research.core.trees import flatten, match_rules
from research.models.mlp import MLP

KEY = jax.random.key(0)


def test_equals_the_same_network_in_numpy():
    """Two hidden layers and the output, written out."""
    model = MLP((5, 4), "tanh").build(Spec(3))
    inputs = jax.random.normal(KEY, (6, 2, 7))
    params = model.init(KEY, {"inputs": inputs})
    x = np.asarray(inputs).reshape(6, 14)
    for name in ("hidden_0", "hidden_1"):
        x = np.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    expected = x @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(model.apply(params, {"inputs": inputs})[0], expected, rtol=1e-5, atol=1e-6)


def test_initial_kernels_have_variance_one_over_inputs():
    """LeCun's initial values keep the size of activations in a linear network."""
    params = MLP((400,)).build(Spec(1)).init(KEY, {"inputs": jnp.zeros((1, 250))})
    np.testing.assert_allclose(params["hidden_0"]["kernel"].var() * 250, 1, rtol=0.02)
    assert not params["hidden_0"]["bias"].any()


def test_dropout_acts_in_training_only_and_follows_the_key():
    """Equal keys drop equal features; evaluation drops none."""
    model = MLP((64,), dropout=0.5).build(Spec(2))
    inputs = jnp.ones((4, 3))
    params = model.init(KEY, {"inputs": inputs})
    first, again, other = (
        model.apply(params, {"inputs": inputs}, train=True, key=jax.random.key(seed))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(
        model.apply(params, {"inputs": inputs})[0], model.apply(params, {"inputs": inputs}, key=KEY)[0]
    )


def test_no_hidden_layer_is_a_linear_model():
    """`hidden=()` leaves the output layer alone, and every parameter has a sharding."""
    model = MLP(()).build(Spec(1))
    params = model.init(KEY, {"inputs": jnp.zeros((1, 9))})
    assert list(flatten(params)) == ["output/bias", "output/kernel"]
    match_rules(model.sharding, params, what="sharding")
