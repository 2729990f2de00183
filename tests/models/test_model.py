"""What `change_layer` promises: another layer inline, in any model, the original untouched."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core import trees
from research.core.errors import UserError
from research.core.shapes import Spec
from research.models.gpt import GPT
from research.models.mlp import MLP
from research.models.model import change_layer

TOKENS = jnp.arange(8, dtype=jnp.int32)[None] % 5


def double(layer, *inputs):
    return 2 * layer(*inputs)


def nothing(layer, x, *_):
    return jnp.zeros_like(x)


def gpt(**options):
    return GPT(depth=2, width=8, heads=2, context=8, **options).build(Spec(5))


def initial(model, inputs):
    return jax.jit(model.init)(jax.random.key(0), {"inputs": inputs})


def test_a_changed_layer_computes_what_the_change_says():
    """Doubling the output layer of a linear model doubles its outputs; parameters and original stay as they were."""
    inputs = jnp.ones((2, 3))
    model = MLP(hidden=()).build(Spec(4))
    changed, params = change_layer(model, "output$", double), initial(model, inputs)
    jax.tree.map(np.testing.assert_array_equal, initial(changed, inputs), params)
    np.testing.assert_allclose(
        changed.apply(params, {"inputs": inputs})[0], 2 * model.apply(params, {"inputs": inputs})[0], rtol=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"remat": True}, {"scan": True}, {"scan": True, "remat": True}])
def test_a_layer_never_called_has_no_parameters(options):
    """Attention replaced in every block leaves no attention parameters, also in scanned and recomputed blocks."""
    model = change_layer(gpt(**options), "/attention$", nothing)
    params = jax.eval_shape(model.init, jax.random.key(0), {"inputs": TOKENS})
    assert not any("/attention/" in path for path in trees.flatten(params))
    assert any("/mlp/" in path for path in trees.flatten(params))
    training = functools.partial(model.apply, train=True)
    assert jax.eval_shape(training, params, {"inputs": TOKENS}, key=jax.random.key(0))[0].shape == (1, 8, 5)


def test_only_matching_layers_change():
    """A path picks one layer of several: the other block keeps its attention."""
    model = change_layer(gpt(), "^block_0/attention$", nothing)
    paths = trees.flatten(jax.eval_shape(model.init, jax.random.key(0), {"inputs": TOKENS}))
    assert {path.split("/")[0] for path in paths if "/attention/" in path} == {"block_1"}


def test_changes_compose():
    """A changed model can be changed again: two doublings of the same layer make four."""
    inputs = jnp.ones((2, 3))
    model = MLP(hidden=()).build(Spec(4))
    params = initial(model, inputs)
    twice = change_layer(change_layer(model, "output$", double), "output$", double)
    np.testing.assert_allclose(
        twice.apply(params, {"inputs": inputs})[0], 4 * model.apply(params, {"inputs": inputs})[0], rtol=1e-6
    )


def test_a_path_that_no_layer_has_is_refused():
    """A misspelt path would silently change nothing: it is refused with the nearest ones."""
    with pytest.raises(UserError, match=r"No layer's path matches 'atention': the nearest are .*block_0/attention"):
        change_layer(gpt(), "atention", nothing).init(jax.random.key(0), {"inputs": TOKENS})
