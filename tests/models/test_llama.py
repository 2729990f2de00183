"""Llama: published sizes, causality and windows, and step-by-step decoding, under the options of each relative."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.errors import UserError
from research.core.mesh import MeshConfig, shard
from research.core.shapes import Spec
from research.core.trees import flatten, match_rules
from research.models.layers.rotary import Rotary
from research.models.llama import Llama
from research.train.optimizers import WEIGHT_DECAY_MULTIPLIERS

KEY = jax.random.key(0)
VOCABULARY, LENGTH = 7, 8
TINY = Llama(depth=3, width=16, heads=4, num_kv_heads=2, context=LENGTH)
OPTIONS: dict[str, dict[str, Any]] = {
    "Llama 3": {"rotary": Rotary(500.0, "llama3", 8.0, original_context=16)},
    "biases, one group": {"num_kv_heads": 1, "attention_bias": True, "mlp_bias": True, "tied": True},
    "Qwen 3": {"query_key_norm": True, "head_dim": 6, "remat": True},
    "Gemma 3": {
        "query_key_norm": True,
        "query_scale": 9,
        "head_dim": 6,
        "output_norms": True,
        "scaled_embedding": True,
        "activation": "geglu",
        "tied": True,
        "window": 3,
        "global_blocks": (2,),
        "rotary": Rotary(1e6, "linear", 8.0),
        "window_rotary": Rotary(1e4),
    },
}


def tokens(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape).astype(np.int32)


@functools.cache
def build(**options):
    """The model and parameters of its shapes, drawn so large that every part matters."""
    model = dataclasses.replace(TINY, **options).build(Spec(VOCABULARY))
    shapes = jax.eval_shape(model.init, KEY, {"inputs": jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)})
    random = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.3 * random.standard_normal(leaf.shape, np.float32)), shapes)


@functools.cache
def compiled(apply):
    return jax.jit(lambda params, batch: apply(params, batch)[0])


def logits(model, params, inputs, **extra):
    """The logits of a model; always for nine rows with all extras, so that it compiles once."""
    defaults = {"segments": np.ones_like(inputs), "positions": np.arange(LENGTH, dtype=np.int32)[None]}
    batch = {"inputs": inputs, **defaults, **extra}
    batch = {name: np.resize(array, (9, *array.shape[1:])) for name, array in batch.items()}
    return np.asarray(compiled(model.apply)(params, batch))[: len(inputs)]


@pytest.mark.parametrize(
    ("config", "vocabulary", "expected"),
    [
        # The numbers of parameters of the safetensors files on the hub, tied heads counted once
        # meta-llama/Meta-Llama-3-8B
        (Llama(depth=32, width=4096, heads=32, num_kv_heads=8, mlp_dim=14336), 128256, 8_030_261_248),
        # meta-llama/Llama-3.2-1B
        (Llama(depth=16, width=2048, heads=32, num_kv_heads=8, mlp_dim=8192, tied=True), 128256, 1_235_814_400),
        # google/gemma-3-270m
        (
            Llama(18, 640, 4, 1, 256, 2048, query_key_norm=True, output_norms=True, activation="geglu", tied=True),
            262144,
            268_098_176,
        ),
    ],
)
def test_has_as_many_parameters_as_published(config, vocabulary, expected):
    """Llama 3 8B, Llama 3.2 1B and Gemma 3 270M."""
    params = jax.eval_shape(
        config.build(Spec(vocabulary)).init, KEY, {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)}
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("name", OPTIONS)
def test_no_position_sees_what_follows_it(name):
    """Changing token t changes the logits at t, and not one bit of any before, under every option."""
    model, params = build(**OPTIONS[name])
    inputs = tokens(1, LENGTH)
    changed = np.where(np.eye(LENGTH, dtype=bool), (inputs + 1) % VOCABULARY, inputs).astype(np.int32)
    found = logits(model, params, np.concatenate([inputs, changed]))
    for place in range(LENGTH):
        np.testing.assert_array_equal(found[1 + place, :place], found[0, :place])
        assert (np.abs(found[1 + place, place] - found[0, place]) > 1e-3).any()
        assert (np.abs(found[1 + place, -1] - found[0, -1]) > 1e-6).any()  # what follows does see it


def test_extras_have_defaults():
    """A row is one document, with positions along it."""
    model, params = build()
    inputs = tokens(9, LENGTH)
    found = compiled(model.apply)(params, {"inputs": inputs})
    np.testing.assert_allclose(found, logits(model, params, inputs), rtol=1e-5, atol=1e-6)


def test_a_window_is_as_wide_as_it_says():
    """With a window of 3 in one block, a token changes the logits at its own and the next two positions only."""
    model, params = build(depth=1, window=3)
    inputs = tokens(1, LENGTH)
    changed = inputs.copy()
    changed[0, 2] = (changed[0, 2] + 1) % VOCABULARY
    differ = np.abs(logits(model, params, inputs) - logits(model, params, changed)).max(-1)[0] > 0
    np.testing.assert_array_equal(differ, [place in (2, 3, 4) for place in range(LENGTH)])


@pytest.mark.parametrize("name", OPTIONS)
def test_packed_documents_do_not_see_each_other(name):
    """Two documents in one row, with their segments and positions, give the logits that each gives alone."""
    model, params = build(**OPTIONS[name])
    inputs = tokens(1, LENGTH)
    rows = np.concatenate([inputs, np.roll(inputs, -3, axis=1)])  # packed; the second alone
    segments = np.int32([[1, 1, 1, 2, 2, 2, 2, 2], [1] * LENGTH])
    positions = np.int32([[0, 1, 2, 0, 1, 2, 3, 4], range(LENGTH)])
    packed, second = logits(model, params, rows, segments=segments, positions=positions)
    np.testing.assert_allclose(packed[3:], second[:5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_step_by_step_equals_all_at_once(name):
    """A prompt of ragged lengths in two chunks, then token by token, gives the logits of the whole rows."""
    model, params = build(**OPTIONS[name])
    padding = np.int32([2, 0])
    inputs = tokens(2, LENGTH)
    rows = np.stack([np.roll(row, -first) for row, first in zip(inputs, padding, strict=True)])
    full = logits(model, params, rows)  # what stands behind a row changes nothing in it
    decode_step = jax.jit(model.decoding.decode_step)
    cache, found, start = model.decoding.init_cache(params, 2, LENGTH + 2), [], 0
    for length in (3, 3, 1, 1):
        step = inputs[:, start : start + length]
        new, cache = decode_step(params, cache, step, np.int32(start), padding)
        found.append(np.asarray(new))
        start += length
    for row, first in enumerate(padding):
        expected = full[row, : LENGTH - first]
        np.testing.assert_allclose(np.concatenate(found, 1)[row, first:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_has_one_sharding_and_one_decay(name):
    """The rules fit all options, and a mesh splits all kernels."""
    model, params = build(**OPTIONS[name])
    match_rules(WEIGHT_DECAY_MULTIPLIERS, params, what="weight decay")
    mesh = MeshConfig(1, fsdp=2, tensor=2).build(jax.devices()[:1] * 4)
    shardings = flatten(shard(mesh, model.sharding, params))
    assert all(not s.is_fully_replicated for path, s in shardings.items() if path.endswith("kernel"))


@pytest.mark.slow  # each family's blocks; GPT's are in the default suite
def test_rematerialisation_changes_neither_loss_nor_gradient():
    """With dropout on, which must fall alike in both passes."""

    def loss_and_gradient(remat):
        model, params = build(remat=remat, dropout=0.4)
        inputs = jnp.asarray(tokens(2, LENGTH))
        loss = jax.value_and_grad(
            lambda p: jnp.square(model.apply(p, {"inputs": inputs}, train=True, key=KEY)[0]).mean()
        )
        return jax.device_get(jax.jit(loss)(params))

    plain, rematerialised = loss_and_gradient(False), loss_and_gradient(True)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), plain, rematerialised)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"depth": 0}, "--model.depth"),
        ({"width": 18}, "--model.width 20"),
        ({"num_kv_heads": 3}, "--model.num-kv-heads"),
        ({"head_dim": 5}, "--model.head-dim"),
    ],
)
def test_impossible_sizes_are_refused(options, option):
    """The message names the option that fixes it."""
    with pytest.raises(UserError, match=option):
        dataclasses.replace(TINY, **options).build(Spec(VOCABULARY))
