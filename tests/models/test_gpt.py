"""GPT: published sizes, causality under every option, and options that change the cost but not the numbers."""

import dataclasses
import functools
from typing import Any

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
from research.models.gpt import GPT
from research.models.layers.attention import attend, causal_mask
from research.models.layers.rotary import rotate
from research.train.optimizers import WEIGHT_DECAY_MULTIPLIERS

KEY = jax.random.key(0)
VOCABULARY, LENGTH = 7, 6
TINY = GPT(depth=2, width=16, heads=4, context=LENGTH)
OPTIONS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "nanoGPT": {"bias": False},
    "Llama": {
        "positions": "rotary",
        "num_kv_heads": 2,
        "activation": "swiglu",
        "norm": "rms",
        "tied": False,
        "bias": False,
    },
    "multi-query": {"num_kv_heads": 1, "tied": False, "norm": "rms"},
    "scanned": {"scan": True, "activation": "swiglu", "positions": "rotary"},
    "rematerialised": {"remat": True, "num_kv_heads": 2, "mlp_dim": 12},
    "scanned and rematerialised": {"scan": True, "remat": True, "num_kv_heads": 2, "tied": False},
    # Room for every token: documents packed in a row share the experts' capacity.
    "experts": {"experts": 4, "capacity_factor": 4.0, "activation": "swiglu"},
    "scanned experts": {"experts": 2, "experts_per_token": 1, "capacity_factor": 2.0, "scan": True, "remat": True},
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
    """The logits of a model; always for eight rows with all extras, so that it compiles once."""
    defaults = {"segments": np.ones_like(inputs), "positions": np.arange(LENGTH, dtype=np.int32)[None]}
    batch = {"inputs": inputs, **defaults, **extra}
    batch = {name: np.resize(array, (8, *array.shape[1:])) for name, array in batch.items()}
    return np.asarray(compiled(model.apply)(params, batch))[: len(inputs)]


def parameters(config: GPT, vocabulary: int) -> int:
    params = jax.eval_shape(
        config.build(Spec(vocabulary)).init, KEY, {"inputs": jax.ShapeDtypeStruct((1, config.context), jnp.int32)}
    )
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("config", "vocabulary", "expected"),
    [
        # Hugging Face, model card of openai-community/gpt2: 124,439,808 with the head tied
        (GPT(depth=12, width=768, heads=12, context=1024), 50257, 124_439_808),
        # The same layers stacked
        (GPT(depth=12, width=768, heads=12, context=1024, scan=True), 50257, 124_439_808),
        # nanoGPT's CPU setting prints "number of parameters: 0.80M", which leaves out the positions
        (GPT(depth=4, width=128, heads=4, context=64, bias=False), 65, 795_904 + 64 * 128),
    ],
)
def test_has_as_many_parameters_as_published(config, vocabulary, expected):
    """GPT-2 small, and the small character model of nanoGPT."""
    assert parameters(config, vocabulary) == expected


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


@pytest.mark.parametrize("name", OPTIONS)
def test_packed_documents_do_not_see_each_other(name):
    """Two documents in one row, with their segments and positions, give the logits that each gives alone."""
    model, params = build(**OPTIONS[name])
    inputs = tokens(1, LENGTH)
    rows = np.concatenate([inputs, np.roll(inputs, -2, axis=1), inputs])  # packed; the second alone; unpacked
    segments = np.int32([[1, 1, 2, 2, 2, 2], [1] * LENGTH, [1] * LENGTH])
    positions = np.int32([[0, 1, 0, 1, 2, 3], range(LENGTH), range(LENGTH)])
    packed, second, joined = logits(model, params, rows, segments=segments, positions=positions)
    np.testing.assert_allclose(packed[:2], joined[:2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(packed[2:], second[:4], rtol=1e-4, atol=1e-5)
    assert np.abs(packed - joined)[2:].max() > 1e-2


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_has_one_sharding_and_one_decay(name):
    """The rules fit all options, and a mesh splits all kernels."""
    model, params = build(**OPTIONS[name])
    match_rules(model.sharding, params, what="sharding")
    match_rules(WEIGHT_DECAY_MULTIPLIERS, params, what="weight decay")
    mesh = MeshConfig(1, fsdp=2, expert=2, tensor=2).build(jax.devices()[:1] * 8)
    shardings = flatten(shard(mesh, model.sharding, params))
    assert all(not s.is_fully_replicated for path, s in shardings.items() if path.endswith("kernel"))


def test_extras_have_defaults():
    """A row is one document, with positions along it."""
    model, params = build()
    inputs = tokens(8, LENGTH)
    found = compiled(model.apply)(params, {"inputs": inputs})
    np.testing.assert_allclose(found, logits(model, params, inputs), rtol=1e-5, atol=1e-6)


def stacked(params):
    """Unrolled parameters as those of a scan."""
    blocks = [params[f"block_{index}"] for index in range(TINY.depth)]
    rest = {name: leaf for name, leaf in params.items() if not name.startswith("block_")}
    return {**rest, "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)}


@pytest.mark.parametrize("options", [{}, {"remat": True, "positions": "rotary", "num_kv_heads": 2}])
def test_scanned_layers_equal_unrolled_ones(options):
    """The same parameters, stacked, give the same logits; swapped layers do not."""
    (plain, params), (scanned, _) = build(**options), build(**options, scan=True)
    inputs = tokens(2, LENGTH)
    expected = logits(plain, params, inputs)
    np.testing.assert_allclose(logits(scanned, stacked(params), inputs), expected, rtol=1e-4, atol=1e-5)
    swapped = {**params, "block_0": params["block_1"], "block_1": params["block_0"]}
    assert np.abs(logits(scanned, stacked(swapped), inputs) - expected).max() > 1e-2


@pytest.mark.parametrize("scan", [False, True])
def test_rematerialisation_changes_neither_loss_nor_gradient(scan):
    """With dropout on, which must fall alike in both passes."""
    options = {"scan": scan, "depth": 2 if scan else 1}
    _, params = build(**options)

    def loss_and_gradient(remat):
        model, _ = build(remat=remat, dropout=0.4, **options)

        def loss(params, key):
            return jnp.square(
                model.apply(params, {"inputs": jnp.asarray(tokens(2, LENGTH))}, train=True, key=key)[0]
            ).mean()

        return jax.jit(jax.value_and_grad(loss))

    plain, rematerialised = loss_and_gradient(False)(params, KEY), loss_and_gradient(True)
    same, other = (rematerialised(params, key) for key in (KEY, jax.random.key(1)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), plain, same)
    assert abs(other[0] - plain[0]) > 1e-3


def test_rematerialisation_is_there():
    """The gradient of a rematerialised model computes the products of its blocks again."""

    def products(remat):
        model, params = build(remat=remat)
        gradient = jax.grad(lambda params: model.apply(params, {"inputs": jnp.asarray(tokens(1, LENGTH))})[0].sum())
        return str(jax.make_jaxpr(gradient)(params)).count("dot_general")

    assert products(True) >= products(False) + 5 * TINY.depth  # all but the last product of each block


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_grouped_attention_equals_repeated_keys_and_values(num_kv_heads):
    """Each group of heads shares a key and a value, in order (Ainslie et al. 2023)."""
    random = np.random.default_rng(0)
    query = random.standard_normal((2, 5, 4, 3)).astype(np.float32)
    key, value = random.standard_normal((2, 2, 5, num_kv_heads, 3)).astype(np.float32)
    mask = np.tril(np.ones((1, 5, 5), bool))
    found = jax.jit(attend)(query, key, value, mask)
    wide_key, wide_value = (np.repeat(array, 4 // num_kv_heads, axis=2) for array in (key, value))
    scores = np.einsum("bthd,bshd->bhts", query, wide_key) / np.sqrt(3)
    weights = np.exp(np.where(mask[:, None], scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, np.einsum("bhts,bshd->bthd", weights, wide_value), rtol=1e-4, atol=1e-5)


def test_attention_to_nothing_is_finite():
    """A row that a mask hides altogether gives the mean of the values, not NaN, forward and backward."""
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 4)).astype(np.float32)
    mask = jnp.asarray(np.array([True, False, True])[None, :, None].repeat(3, 2))
    found = np.asarray(jax.jit(attend)(x, x, x, mask))
    np.testing.assert_allclose(found[0, 1], x[0].mean(0), rtol=1e-5, atol=1e-6)
    assert np.isfinite(jax.jit(jax.grad(lambda x: attend(x, x, x, mask).sum()))(x)).all()


def test_attention_survives_large_scores():
    """Scores of thousands saturate the softmax instead of overflowing."""
    x = np.float32(300) * np.random.default_rng(0).standard_normal((1, 4, 1, 8)).astype(np.float32)
    assert np.isfinite(jax.jit(attend)(x, x, x, causal_mask(4))).all()


ROTATE = jax.jit(rotate)


@settings(max_examples=15)
@given(shift=st.integers(0, 1000), left=st.integers(0, 50), right=st.integers(0, 50))
def test_rotary_products_depend_on_the_distance_alone(shift, left, right):
    """Su et al. 2021, eq. 16: shifting both positions leaves the product of query and key."""
    query, key = np.random.default_rng(0).standard_normal((2, 1, 1, 2, 8)).astype(np.float32)

    def product(offset):
        turned = (ROTATE(x, np.full((1, 1), place + offset)) for x, place in ((query, left), (key, right)))
        return np.einsum("bthd,bthd->h", *map(np.asarray, turned))

    np.testing.assert_allclose(product(shift), product(0), rtol=2e-3, atol=2e-3)


def test_rotary_turns_pairs_by_their_frequencies():
    """Position 0 stays; at position 1 the first pair turns by one radian; lengths stay."""
    x = np.random.default_rng(0).standard_normal((1, 2, 1, 4)).astype(np.float32)
    turned = np.asarray(ROTATE(x, np.array([[0, 1]])))
    np.testing.assert_array_equal(turned[0, 0], x[0, 0])
    pair = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]]) @ x[0, 1, 0, [0, 2]]
    np.testing.assert_allclose(turned[0, 1, 0, [0, 2]], pair, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


def test_the_tied_head_is_the_embedding_and_the_free_one_is_not():
    """Tied: no head parameter; free: the logits are linear in it."""
    _, tied = build()
    assert "head" not in tied
    model, free = build(tied=False)
    doubled = {**free, "head": jax.tree.map(lambda leaf: 2 * leaf, free["head"])}
    inputs = tokens(1, LENGTH)
    np.testing.assert_allclose(logits(model, doubled, inputs), 2 * logits(model, free, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_bfloat16_is_close_to_float32(name):
    """Logits come in the type of the parameters, within a few per cent."""
    model, params = build(**OPTIONS[name])
    inputs = tokens(2, LENGTH)
    exact, found = logits(model, params, inputs), logits(model, cast(params, "bfloat16"), inputs)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), exact, atol=0.05 * np.abs(exact).max())


def test_residual_projections_start_smaller():
    """GPT-2: standard deviation 0.02, and 0.02 / sqrt(2 depth) where blocks add to the residual stream."""
    params = jax.jit(GPT(depth=8, width=64, heads=4, scan=True).build(Spec(100)).init)(KEY, {"inputs": tokens(1, 8)})
    params = jax.device_get(params)
    for path, deviation in (("attention/query_key_value", 0.02), ("attention/output", 0.005), ("mlp/down", 0.005)):
        part, name = path.split("/")
        np.testing.assert_allclose(params["blocks"][part][name]["kernel"].std(), deviation, rtol=0.05)


def test_dropout_needs_training_and_a_key():
    """Without `train` a model with dropout is the model without; with it, keys decide."""
    model, params = build(dropout=0.5)
    plain, _ = build()
    inputs = tokens(1, LENGTH)
    np.testing.assert_array_equal(logits(model, params, inputs), logits(plain, params, inputs))
    apply = jax.jit(lambda key: model.apply(params, {"inputs": jnp.asarray(inputs)}, train=True, key=key)[0])
    first, again, other = (np.asarray(apply(key)) for key in (KEY, KEY, jax.random.key(1)))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 18}, r"The width 18 is not divisible by 4 heads: .* --model.width 20"),
        ({"num_kv_heads": 3}, "4 heads cannot share 3 key and value heads"),
        ({"width": 12, "positions": "rotary"}, "even head size, not 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    """One sentence with the sizes, and what would fit."""
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **options).build(Spec(VOCABULARY))
