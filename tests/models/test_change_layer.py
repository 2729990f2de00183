"""What `change_layer` promises: another layer inline, in any model, the original untouched, and written as it is."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core import trees
from research.core.errors import UserError
from research.core.shapes import Spec
from research.models.change_layer import change_layer, fastest
from research.models.gpt import GPT
from research.models.mlp import MLP
from research.models.t5 import T5
from research.models.transformer import Transformer
from research.models.wrappers.lora import LoRA, with_lora

TOKENS = np.arange(8, dtype=np.int32)[None] % 5


def double(layer, *inputs):
    return 2 * layer(*inputs)


def nothing(layer, x, *_):
    return jnp.zeros_like(x)


def gpt(depth=2, **options):
    return GPT(depth=depth, width=8, heads=2, context=8, **options).build(Spec(5))


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
        jax.eval_shape(change_layer(gpt(), "atention", nothing).init, jax.random.key(0), {"inputs": TOKENS})


def token_shift(layer, x, *inputs, **options):
    """Half of each position's features come from the position before (RWKV)."""
    late = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return layer(jnp.where(jnp.arange(x.shape[-1]) % 2, x, late), *inputs, **options)


compiled = functools.cache(jax.jit)


def whole(model, params):
    """The logits of `TOKENS` of one pass."""
    return compiled(model.apply)(params, {"inputs": TOKENS})[0]


def written(model, params, sizes, first):
    """The logits of `TOKENS`, padded by `first`, read in parts of these sizes."""
    decode_step = compiled(model.decoding.decode_step)
    rows = np.pad(TOKENS, ((0, 0), (first, 0)))
    cache, start, parts = model.decoding.init_cache(params, 1, 64), 0, []
    for size in sizes:
        step = rows[:, start : start + size]
        logits, cache = decode_step(params, cache, step, np.int32(start), np.full(1, first, np.int32))
        parts.append(logits)
        start += size
    return np.concatenate(parts, axis=1)[:, first:]


@pytest.fixture(scope="module")
def shifted():
    """A model whose attention looks back, and its parameters."""
    model = change_layer(gpt(), "/attention$", token_shift)
    return model, initial(model, TOKENS)


@pytest.mark.parametrize(("sizes", "first"), [((4, 1, 1, 1, 1), 0), ((4, 4, 1, 1), 2)])
def test_a_layer_that_looks_back_is_written_by_whole_passes(shifted, sizes, first):
    """Step by step a shifted token would be lost: the changed model's steps give the logits of a whole pass."""
    model, params = shifted
    expected = whole(model, params)
    np.testing.assert_allclose(written(model, params, sizes, first), expected, rtol=1e-5, atol=1e-5)
    with pytest.warns(UserWarning, match="other logits .* whole passes"):
        assert fastest(model.decoding, params) is model.decoding
    steps = model._replace(decoding=model.decoding.unproven)
    assert np.abs(written(steps, params, sizes, first) - expected).max() > 5e-4


def test_a_layer_that_needs_the_whole_text_is_written_by_whole_passes():
    """A change that cannot be computed for one token does not end the writing."""

    def reversed_order(layer, x, *inputs, **options):
        assert x.shape[1] > 1, "one token has no order"
        return layer(x, *inputs, **options)

    model = change_layer(gpt(), "/mlp$", reversed_order)
    with pytest.warns(UserWarning, match="cannot be computed .one token has no order"):
        assert fastest(model.decoding, initial(model, TOKENS)) is model.decoding


def test_a_change_of_single_positions_keeps_the_fast_form():
    """What a layer does to each position alone is right step by step, also after low-rank updates; no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = change_layer(gpt(depth=1), "/mlp$", lambda layer, *inputs, **options: 1.1 * layer(*inputs, **options))
        params = initial(model, TOKENS)
        chosen = fastest(model.decoding, params)
        assert chosen is model.decoding.unproven
        found = written(model._replace(decoding=chosen), params, (5, 1, 1, 1), 0)
        np.testing.assert_allclose(found, whole(model, params), rtol=1e-5, atol=1e-5)
        updated = with_lora(model, LoRA(rank=1))
        params = initial(updated, TOKENS)
        assert fastest(updated.decoding, params) is updated.decoding.unproven


@pytest.mark.parametrize(
    "config",
    [
        Transformer(depth=1, width=8, heads=2, context=8),
        pytest.param(T5(depth=1, width=8, heads=2), marks=pytest.mark.slow),  # the same code
    ],
)
def test_a_changed_translator_is_written_by_whole_passes(config):
    """In a decoder that looks at an encoder, whose input stays with the text so far, padding included."""
    model = change_layer(config.build(Spec(5)), "decoder.*/mlp$", token_shift)
    source, segments = TOKENS, np.int32([[1] * 6 + [0] * 2])
    batch = {"inputs": source, "segments": segments, "decoder_inputs": TOKENS}
    params = jax.jit(model.init)(jax.random.key(0), batch)
    cache, found = model.decoding.init_cache(params, 1, 8, inputs=source, segments=segments), []
    for slot in range(8):
        step, slots = TOKENS[:, slot : slot + 1], np.int32(slot)
        logits, cache = compiled(model.decoding.decode_step)(params, cache, step, slots, np.zeros(1, np.int32))
        found.append(logits)
    expected = jax.jit(model.apply)(params, batch)[0]
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-5, atol=1e-5)
    with pytest.warns(UserWarning, match="other logits .* whole passes"):
        assert fastest(model.decoding, params) is model.decoding
