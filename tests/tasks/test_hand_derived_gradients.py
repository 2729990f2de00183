"""The 2-1-1 sigmoid network of the introductory article: gradients derived by hand equal autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.dataset import Data
from research.models.mlp import MLP
from research.tasks.regression import Regression
from research.tasks.task import Context

weights = st.floats(-3, 3, width=32)


@jax.jit
def task_gradients(params, inputs, target):
    task = Regression().build(MLP((1,), "sigmoid"), Data({}, 1))
    batch = {"inputs": inputs[None], "targets": target[None], "mask": np.ones(1, np.float32)}
    return jax.grad(lambda params: task.loss(params, batch, Context(jax.random.key(0), 0, train=True)).sum)(params)


@given(st.lists(weights, min_size=8, max_size=8))
@settings(max_examples=20, deadline=None)
def test_hand_derived_gradients_equal_autodiff(values):
    """h = sigmoid(w.x + b), y = v h + c, L = (y - t)^2: dL/dv = 2(y - t) h, dL/dw = 2(y - t) v h(1 - h) x, and so on.

    The loss has no factor one half; with it, every gradient would be half as large.
    """
    w, b, v, c, x, t = np.float32(values[:2]), values[2], values[3], values[4], np.float32(values[5:7]), values[7]
    params = {
        "hidden_0": {"kernel": jnp.asarray(w[:, None]), "bias": jnp.float32([b])},
        "output": {"kernel": jnp.float32([[v]]), "bias": jnp.float32([c])},
    }
    found = task_gradients(params, x, np.float32([t]))
    hidden = 1 / (1 + np.exp(-(np.float64(w) @ x + b)))
    slope = 2 * (v * hidden + c - t)
    inner = slope * v * hidden * (1 - hidden)
    expected = {
        "hidden_0": {"kernel": inner * x[:, None], "bias": [inner]},
        "output": {"kernel": [[slope * hidden]], "bias": [slope]},
    }
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-3, atol=1e-4),
        found,
        {layer: {name: np.asarray(value) for name, value in leaves.items()} for layer, leaves in expected.items()},
    )
