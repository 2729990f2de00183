"""Recurrent networks: packed rows, steps with a cache, and what each head may see."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core.errors import UserError
from research.core.mesh import MeshConfig, shard
from research.core.precision import cast
from research.core.shapes import Spec
from research.core.trees import flatten, match_rules
from research.models.layers.recurrent_cells import CELLS, scan_cell
from research.models.recurrent import Recurrent
from research.train.optimizers import WEIGHT_DECAY_MULTIPLIERS

KEY = jax.random.key(0)
VOCABULARY, LENGTH = 11, 7
TINY = Recurrent(depth=2, width=8, embedding=6)
CLASSIFIER = dataclasses.replace(TINY, head="sequence", vocabulary=VOCABULARY, bidirectional=True)


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape).astype(np.int32)


@functools.cache
def build(config=TINY, outputs=VOCABULARY, **options):
    """The model and parameters of its shapes, drawn so large that every part matters."""
    model = dataclasses.replace(config, **options).build(Spec(outputs))
    shapes = jax.eval_shape(model.init, KEY, {"inputs": jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)})
    random = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.5 * random.standard_normal(leaf.shape, np.float32)), shapes)


@functools.cache
def compiled(apply):
    return jax.jit(lambda params, batch: apply(params, batch)[0])


def outputs(model, params, inputs, **extra):
    """What a model gives; always for eight rows with all extras, so that it compiles once."""
    defaults = {"segments": np.ones_like(inputs), "starts": np.zeros((1, 3), np.int32)}
    batch = {"inputs": inputs, **defaults, **extra}
    batch = {name: np.resize(array, (8, *array.shape[1:])) for name, array in batch.items()}
    return np.asarray(compiled(model.apply)(params, batch))[: len(inputs)]


def test_extras_have_defaults():
    """A row is one text."""
    for config, count in ((TINY, VOCABULARY), (CLASSIFIER, 3)):
        model, params = build(config, count)
        inputs = tokens(8, LENGTH)
        found = np.asarray(compiled(model.apply)(params, {"inputs": inputs}))
        expected = outputs(model, params, inputs)
        np.testing.assert_allclose(found, expected if config == TINY else expected[:, :1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_no_position_sees_what_follows_it(cell):
    """Changing a token changes the logits there and after it, and not one bit of any before."""
    model, params = build(cell=cell)
    inputs = tokens(1, LENGTH)
    changed = inputs.copy()
    changed[0, 3] = (inputs[0, 3] + 1) % VOCABULARY
    first, second = outputs(model, params, np.concatenate([inputs, changed]))
    np.testing.assert_array_equal(first[:3], second[:3])
    assert (np.abs(first - second).max(-1)[3:] > 1e-5).all()


@pytest.mark.parametrize("cell", CELLS)
def test_packed_texts_do_not_see_each_other(cell):
    """Two texts in one row give the logits that each gives alone; padding changes nothing."""
    model, params = build(cell=cell)
    inputs = tokens(1, LENGTH)
    rows = np.concatenate([inputs, np.roll(inputs, -3, axis=1)])
    packed = outputs(model, params, inputs, segments=np.int32([[1, 1, 1, 2, 2, 0, 0]]))[0]
    first, second = outputs(model, params, rows)
    np.testing.assert_allclose(packed[:3], first[:3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(packed[3:5], second[:2], rtol=1e-5, atol=1e-6)
    assert np.abs(packed - first)[3:5].max() > 1e-2


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_examples_are_read_as_if_alone(pooling, bidirectional):
    """A classifier of packed examples says what it says of each in a row of its own, padded or not."""
    model, params = build(CLASSIFIER, 3, pooling=pooling, bidirectional=bidirectional)
    inputs = tokens(1, LENGTH)
    packed = outputs(model, params, inputs, segments=np.int32([[1, 1, 1, 2, 2, 0, 0]]), starts=np.int32([[0, 3, 0]]))[0]
    padded = np.where(np.arange(LENGTH) < 2, np.roll(inputs, -3, axis=1), 0)
    second = outputs(model, params, padded, segments=np.int32([[1, 1, 0, 0, 0, 0, 0]]), starts=np.int32([[0, 0, 0]]))
    first = compiled(model.apply)(params, {"inputs": inputs[:, :3]})
    np.testing.assert_allclose(packed[0], first[0, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(packed[1], second[0, 0], rtol=1e-5, atol=1e-6)
    assert np.abs(packed[0] - packed[1]).max() > 1e-2


def test_pooling_reads_each_direction_to_its_end():
    """ "last" sees every token, in one direction or both; "mean" differs from it."""
    for options in ({}, {"bidirectional": False}, {"pooling": "mean"}):
        model, params = build(CLASSIFIER, 3, **options)
        inputs = tokens(1, LENGTH)
        changed = np.where(np.eye(LENGTH, dtype=bool), (inputs + 1) % VOCABULARY, inputs).astype(np.int32)
        found = outputs(model, params, np.concatenate([inputs, changed]))
        assert (np.abs(found[1:] - found[:1]).max((1, 2)) > 1e-5).all()


STEPS = LENGTH + 3
jitted = functools.cache(jax.jit)


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=10, deadline=None)
@given(padding=st.integers(0, 3), chunk=st.sampled_from([1, 2, 4]))
def test_steps_with_a_cache_equal_the_full_pass(cell, padding, chunk):
    """Text fed in pieces, behind any padding, gives the logits of the whole text at once."""
    model, params = build(cell=cell)
    inputs = tokens(2, LENGTH)
    expected = outputs(model, params, inputs)
    rows = tokens(2, STEPS, seed=1)
    rows[0, padding : padding + LENGTH] = inputs[0]
    rows[1, :LENGTH] = inputs[1]  # the second row's text begins at once
    first = np.int32([padding, 0])
    cache, found = model.decoding.init_cache(params, 2, STEPS), []
    for start in range(0, STEPS, chunk):
        piece = rows[:, start : start + chunk]
        logits, cache = jitted(model.decoding.decode_step)(params, cache, piece, np.int32(start), first)
        found.append(logits)
    found = np.concatenate(found, axis=1)
    np.testing.assert_allclose(found[0, padding : padding + LENGTH], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1, :LENGTH], expected[1], rtol=1e-4, atol=1e-5)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(cache))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_by_hand_is_that_of_autodiff(cell, reverse):
    """Of inputs, kernel, bias and first state, with resets, from the outputs and the last state."""
    gates, states, step = CELLS[cell]
    random = np.random.default_rng(0)
    shapes = (5, 3, gates * 4), (4, gates * 4), (gates * 4,), *[(3, 4)] * states
    from_input, kernel, bias, *state = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in shapes)
    resets = jnp.asarray(random.random((5, 3)) < 0.3)

    def by_hand(from_input, kernel, bias, state):
        return scan_cell(cell, reverse, from_input, kernel, bias, resets, state)

    def by_autodiff(from_input, kernel, bias, state):
        outputs = {}
        for time in reversed(range(5)) if reverse else range(5):
            state = tuple(part * (1 - resets[time][:, None]) for part in state)
            state = step(from_input[time], state[0] @ kernel + bias, state)
            outputs[time] = state[0]
        return jnp.stack([outputs[time] for time in range(5)]), state

    def gradient(function):
        def loss(*arguments):
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(function(*arguments)))

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(from_input, kernel, bias, tuple(state))

    found, expected = gradient(by_hand), gradient(by_autodiff)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, tied=True, embedding=0), CLASSIFIER])
def test_every_parameter_has_one_sharding_and_one_decay(config):
    """The rules fit all options, and a mesh splits all kernels."""
    model, params = build(config, 8)
    match_rules(model.sharding, params, what="sharding")
    match_rules(WEIGHT_DECAY_MULTIPLIERS, params, what="weight decay")
    mesh = MeshConfig(1, fsdp=2, tensor=2).build(jax.devices()[:1] * 4)
    shardings = flatten(shard(mesh, model.sharding, params))
    assert all(not s.is_fully_replicated for path, s in shardings.items() if path.endswith("kernel"))


def test_dropout_needs_training_and_a_key():
    """Without `train` a model with dropout is the model without; with it, keys decide, and the state is spared."""
    model, params = build(dropout=0.5)
    plain, _ = build()
    inputs = tokens(1, LENGTH)
    np.testing.assert_array_equal(outputs(model, params, inputs), outputs(plain, params, inputs))
    apply = jax.jit(lambda key: model.apply(params, {"inputs": jnp.asarray(inputs)}, train=True, key=key)[0])
    first, again, other = (np.asarray(apply(key)) for key in (KEY, KEY, jax.random.key(1)))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_is_close_to_float32(cell):
    """Logits come in the type of the parameters, within a few per cent."""
    model, params = build(cell=cell)
    exact, found = (outputs(model, each, tokens(2, LENGTH)) for each in (params, cast(params, "bfloat16")))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), exact, atol=0.05 * np.abs(exact).max())


def test_gates_start_as_the_literature_has_them():
    """Each gate's recurrent kernel is orthogonal, and the forget gate stands open."""
    params = jax.jit(TINY.build(Spec(VOCABULARY)).init)(KEY, {"inputs": tokens(1, LENGTH)})["layers"]["forward_0"]
    for gate in np.split(np.asarray(params["recurrent_kernel"]), 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(8), atol=1e-5)
    np.testing.assert_array_equal(params["recurrent_bias"], [0] * 8 + [1] * 8 + [0] * 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "--model.depth is 0: give a number from 1"),
        ({"bidirectional": True}, "sees what it is to predict"),
        ({"tied": True}, "An embedding of 6 features cannot be the head of states of 8"),
        ({"head": "sequence"}, "--model.vocabulary"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """One sentence with what was found, and what would fit."""
    with pytest.raises(UserError, match=message):
        build(**options)
