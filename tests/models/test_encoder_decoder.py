"""The recurrent encoder-decoder: what its attention sees, packed rows, and steps with a cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.core.errors import UserError
from research.core.mesh import MeshConfig, shard
from research.core.shapes import Spec
from research.core.trees import flatten, match_rules
from research.models.encoder_decoder import SequenceToSequence
from research.train.optimizers import WEIGHT_DECAY_MULTIPLIERS

KEY = jax.random.key(0)
VOCABULARY, SOURCE, TARGET = 11, 6, 5
TINY = SequenceToSequence(depth=2, width=8, embedding=6)


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, VOCABULARY, shape).astype(np.int32)


@functools.cache
def build(**options):
    """The model and parameters of its shapes, drawn so large that every part matters."""
    model = dataclasses.replace(TINY, **options).build(Spec(VOCABULARY))
    shapes = jax.eval_shape(model.init, KEY, {"inputs": jax.ShapeDtypeStruct((1, SOURCE), jnp.int32)})
    random = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.6 * random.standard_normal(leaf.shape, np.float32)), shapes)


@functools.cache
def compiled(apply):
    return jax.jit(lambda params, batch: apply(params, batch)[0])


def logits(model, params, inputs, decoder_inputs, **extra):
    batch = {"inputs": inputs, "decoder_inputs": decoder_inputs, **extra}
    return np.asarray(compiled(model.apply)(params, batch))


jitted = functools.cache(jax.jit)


def test_the_target_sees_the_whole_source_and_its_own_past():
    """A change in the source changes all logits; one in the target none before it."""
    model, params = build()
    source, target = tokens(1, SOURCE), tokens(1, TARGET, seed=1)
    expected = logits(model, params, source, target)[0]
    for place in range(SOURCE):
        changed = np.where(np.arange(SOURCE) == place, source % (VOCABULARY - 1) + 1, source).astype(np.int32)
        assert (np.abs(logits(model, params, changed, target)[0] - expected).max(-1) > 1e-5).all()
    changed = np.where(np.arange(TARGET) == 2, target % (VOCABULARY - 1) + 1, target).astype(np.int32)
    found = logits(model, params, source, changed)[0]
    np.testing.assert_array_equal(found[:2], expected[:2])
    assert (np.abs(found - expected).max(-1)[2:] > 1e-5).all()


def test_packed_pairs_are_translated_as_if_alone():
    """Two pairs in one row give the logits that each gives alone, and padding of the source changes nothing."""
    model, params = build()
    source, target = tokens(1, SOURCE), tokens(1, TARGET, seed=1)
    packed = logits(
        model,
        params,
        source,
        target,
        segments=np.int32([[1, 1, 1, 2, 2, 0]]),
        decoder_segments=np.int32([[1, 1, 2, 2, 2]]),
    )[0]
    first = logits(model, params, source[:, :3], target[:, :2])[0]
    second = logits(model, params, np.roll(source, -3, axis=1), target[:, 2:], segments=np.int32([[1, 1, 0, 0, 0, 0]]))[
        0
    ]
    np.testing.assert_allclose(packed, np.concatenate([first, second]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_steps_with_a_cache_equal_the_full_pass(chunk):
    """Fed in pieces, behind padding or not, a target gives the logits of the whole target at once."""
    model, params = build()
    source, target = tokens(2, SOURCE), tokens(2, TARGET, seed=1)
    segments = np.int32([[1] * SOURCE, [1, 1, 1, 1, 0, 0]])
    expected = logits(model, params, source, target, segments=segments)
    rows = np.concatenate([tokens(2, 2, seed=2), target], axis=1)
    rows[1, :TARGET] = target[1]  # the second row's text begins at once
    first = np.int32([2, 0])
    init_cache = functools.partial(model.decoding.init_cache, batch=2, capacity=TARGET + 2)
    cache, found = jax.jit(init_cache)(params, inputs=source, segments=segments), []
    for start in range(0, TARGET + 2, chunk):
        piece, cache = jitted(model.decoding.decode_step)(
            params, cache, rows[:, start : start + chunk], np.int32(start), first
        )
        found.append(piece)
    found = np.concatenate(found, axis=1)
    np.testing.assert_allclose(found[0, 2:], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1, :TARGET], expected[1], rtol=1e-4, atol=1e-5)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(cache))


def test_attention_is_shown_when_asked_for():
    """The weights of each position over its own source sum to one; unasked, there are none."""
    model, params = build()
    source, target = jnp.asarray(tokens(2, SOURCE)), jnp.asarray(tokens(2, TARGET, seed=1))
    segments = jnp.int32([[1] * SOURCE, [1, 1, 1, 0, 0, 0]])
    extra = {"decoder_inputs": target, "segments": segments}
    shown = jax.jit(lambda params: model.apply(params, {"inputs": source, **extra}, attention=True)[1].attention)(
        params
    )
    (weights,) = shown.values()
    assert weights.shape == (2, 1, TARGET, SOURCE)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert weights[1, ..., 3:].max() == 0 < weights[1, ..., :3].min()
    assert jax.eval_shape(lambda: model.apply(params, {"inputs": source, **extra})[1].attention) == {}


def test_it_learns_to_reverse_and_looks_at_what_it_writes():
    """After some hundred steps it reverses sequences that it has not seen, looking at each token as it writes it."""
    model = SequenceToSequence(width=24).build(Spec(VOCABULARY))

    def batch(key):
        source = jax.random.randint(key, (32, 4), 1, VOCABULARY)
        target = source[:, ::-1]
        return source, jnp.pad(target, ((0, 0), (1, 0)))[:, :-1], target

    optimizer = optax.adam(1e-2)

    @jax.jit
    def learn(key):
        params = model.init(KEY, {"inputs": jnp.zeros((1, 4), jnp.int32)})

        def step(carry, key):
            params, state = carry
            source, shifted, target = batch(key)

            def loss(params):
                scores = model.apply(params, {"inputs": source, "decoder_inputs": shifted})[0]
                return optax.softmax_cross_entropy_with_integer_labels(scores, target).mean()

            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 200))[0][0]

    params = learn(KEY)
    source, shifted, target = jax.jit(batch)(jax.random.key(7))
    scores, sown = jax.jit(
        lambda params: model.apply(params, {"inputs": source, "decoder_inputs": shifted}, attention=True)
    )(params)
    assert (np.asarray(scores).argmax(-1) == np.asarray(target)).mean() > 0.95
    weights = np.asarray(sown.attention[""]).mean((0, 1))
    assert (weights.argmax(-1) == np.array([3, 2, 1, 0])).mean() >= 0.75


def test_every_parameter_has_one_sharding_and_one_decay():
    """The rules fit, and a mesh splits all kernels that divide."""
    model, params = build()
    match_rules(model.sharding, params, what="sharding")
    match_rules(WEIGHT_DECAY_MULTIPLIERS, params, what="weight decay")
    mesh = MeshConfig(1, fsdp=2, tensor=1).build(jax.devices()[:1] * 2)
    shardings = flatten(shard(mesh, model.sharding, params))
    assert all(not s.is_fully_replicated for path, s in shardings.items() if path.endswith("kernel"))


def test_sizes_that_do_not_fit_are_refused():
    """One sentence with the sizes."""
    with pytest.raises(UserError, match=r"--model\.depth is 0: give a number from 1"):
        build(depth=0)
