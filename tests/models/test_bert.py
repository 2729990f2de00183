"""BERT: published sizes, packing and padding that change nothing, and what each head gives."""

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
from research.models.bert import BERT
from research.train.optimizers import WEIGHT_DECAY_MULTIPLIERS

KEY = jax.random.key(0)
VOCABULARY, LENGTH, LABELS = 11, 8, 3
TINY = BERT(depth=2, width=16, heads=4, context=LENGTH, vocabulary=VOCABULARY)
OPTIONS: dict[str, dict[str, Any]] = {
    "masked": {},
    "masked, free": {"tied": False, "mlp_dim": 24, "activation": "relu"},
    "RoBERTa": {"padding": 1, "token_types": 1, "epsilon": 1e-5},
    "sequence": {"head": "sequence"},
    "sequence, mean": {"head": "sequence", "pooling": "mean", "pooler": False},
    "token": {"head": "token"},
    "span": {"head": "span"},
    "embedding": {"head": "embedding", "pooling": "mean"},
}
POOLED = ("sequence", "sequence, mean", "embedding")


@functools.cache
def build(**options):
    """The model and parameters of its shapes, drawn so large that every part matters."""
    model = dataclasses.replace(TINY, **options).build(Spec(VOCABULARY if "head" not in options else LABELS))
    shapes = jax.eval_shape(model.init, KEY, {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.5 * random.standard_normal(leaf.shape, np.float32)), shapes)
    return model, params, jax.jit(lambda inputs, extra: model.apply(params, {"inputs": inputs, **extra})[0])


def outputs(name, inputs, **extra):
    """What the model of these options gives; always for eight rows with all extras, so that it compiles once."""
    defaults = {"segments": np.ones_like(inputs), "positions": np.arange(LENGTH, dtype=np.int32)[None]}
    defaults |= {"token_types": np.zeros_like(inputs), "starts": np.zeros((1, 2), np.int32)}
    arrays = {"inputs": inputs, **defaults, **extra}
    arrays = {key: np.resize(array, (8, *array.shape[1:])) for key, array in arrays.items()}
    found = build(**OPTIONS[name])[2](arrays.pop("inputs"), arrays)
    return np.asarray(found)[: len(inputs)]


def tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(2, VOCABULARY, shape).astype(np.int32)


@pytest.mark.parametrize(
    ("config", "outputs", "expected"),
    [
        # transformers, BertForMaskedLM(BertConfig()).num_parameters(): bert-base, 30,522 tokens
        (BERT(12, 768, 12, context=512), 30_522, 109_514_298),
        # sentence-transformers/all-MiniLM-L6-v2: 22,713,216, of which the pooler's 147,840 are never used
        (BERT(6, 384, 12, context=512, vocabulary=30_522, head="embedding"), 0, 22_713_216 - 147_840),
        # transformers, RobertaForSequenceClassification(RobertaConfig(vocab_size=50265, max_position_embeddings=514,
        # type_vocab_size=1)).num_parameters(): roberta-base with two labels
        (BERT(12, 768, 12, 0, 512, 50_265, 1, "sequence", padding=1), 2, 124_647_170),
    ],
)
def test_has_as_many_parameters_as_published(config, outputs, expected):
    """BERT base, MiniLM and RoBERTa base."""
    params = jax.eval_shape(config.build(Spec(outputs)).init, KEY, {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("masked", (2, LENGTH, VOCABULARY)),
        ("sequence", (2, 2, LABELS)),
        ("token", (2, LENGTH, LABELS)),
        ("span", (2, LENGTH, 2)),
        ("embedding", (2, 2, TINY.width)),
    ],
)
def test_heads_give_their_shapes(name, shape):
    """Vocabulary, labels, an answer's ends or a vector; for each position or each example."""
    assert outputs(name, tokens(2, LENGTH)).shape == shape


@pytest.mark.parametrize("name", OPTIONS)
def test_packed_examples_equal_unpacked_ones(name):
    """Two examples and padding in one row give what each gives where padding takes the other's place."""
    packed = tokens(1, LENGTH)
    segments = np.int32([[1, 1, 1, 2, 2, 2, 2, 0]])
    positions = np.int32([[0, 1, 2, 0, 1, 2, 3, 0]])
    types = np.int32([[0, 1, 1, 0, 0, 1, 0, 0]]) * (name != "RoBERTa")
    extra = {"positions": positions, "token_types": types, "starts": np.int32([[0, 3]])}
    found = outputs(name, packed, segments=segments, **extra)
    for example, place in enumerate((slice(0, 3), slice(3, 7))):
        own = segments == example + 1
        expected = outputs(name, np.where(own, packed, 1), segments=own.astype(np.int32), **extra)
        part = example if name in POOLED else place
        np.testing.assert_allclose(found[:, part], expected[:, part], rtol=1e-4, atol=1e-5)
    assert np.abs(outputs(name, packed, **extra) - found).max() > 1e-2


@pytest.mark.parametrize("name", OPTIONS)
def test_padding_changes_nothing(name):
    """Neither what stands in the padding, nor on which side it is."""
    text, found = tokens(1, 5), []
    for filler, left in ((1, 0), (7, 0), (1, 3), (7, 3)):
        row, segments = np.full((1, LENGTH), filler, np.int32), np.zeros((1, LENGTH), np.int32)
        row[:, left : left + 5], segments[:, left : left + 5] = text, 1
        extra = {"segments": segments, "positions": np.maximum(np.arange(LENGTH, dtype=np.int32)[None] - left, 0)}
        given = outputs(name, row, starts=np.int32([[left, left]]), **extra)
        found.append(given if name in POOLED else given[:, left : left + 5])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)


def test_roberta_does_not_count_its_padding():
    """Without positions the padding, wherever it stands, is skipped in counting, unlike in BERT."""
    text, segments = tokens(1, 5), np.int32([[0, 0, 0, 1, 1, 1, 1, 1]])
    left, right = np.pad(text, ((0, 0), (3, 0)), constant_values=1), np.pad(text, ((0, 0), (0, 3)), constant_values=1)
    for options, same in (({"padding": 1}, True), ({}, False)):
        apply = build(**options)[2]
        after, before = apply(left, {"segments": segments}), apply(right, {"segments": segments[:, ::-1]})
        error = np.asarray(after)[:, 3:] - np.asarray(before)[:, :5]
        assert (np.abs(error).max() < 1e-4) == same


def test_every_position_sees_all_of_its_example():
    """A change at any place reaches every position."""
    inputs = tokens(1, LENGTH)
    changed = np.where(np.eye(LENGTH, dtype=bool), (inputs + 1) % VOCABULARY, inputs).astype(np.int32)
    assert (np.abs(outputs("masked", changed) - outputs("masked", inputs)).max(-1) > 1e-4).all()


def test_extras_have_defaults():
    """All of a row is one example of type 0, or begins with the first token that is not padding."""
    inputs, segments = tokens(8, LENGTH), np.int32([[0, 0, 1, 1, 1, 1, 1, 0]] * 8)
    apply = build(head="sequence")[2]
    np.testing.assert_allclose(apply(inputs, {}), outputs("sequence", inputs)[:, :1], rtol=1e-5, atol=1e-6)
    expected = outputs("sequence", inputs, segments=segments, starts=np.int32([[2, 3]]))
    np.testing.assert_allclose(apply(inputs, {"segments": segments})[:, 0], expected[:, 0], rtol=1e-5, atol=1e-6)
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 1e-3
    typed = outputs("sequence", inputs, token_types=np.ones_like(inputs))
    assert np.abs(typed - outputs("sequence", inputs)).max() > 1e-2


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_has_one_sharding_and_one_decay(name):
    """The rules fit all options, and a mesh splits all kernels."""
    model, params, _ = build(**OPTIONS[name])
    match_rules(model.sharding, params, what="sharding")
    match_rules(WEIGHT_DECAY_MULTIPLIERS, params, what="weight decay")
    mesh = MeshConfig(1, fsdp=4, tensor=2).build(jax.devices()[:1] * 8)
    shardings = flatten(shard(mesh, model.sharding, params))
    assert all(not s.is_fully_replicated for path, s in shardings.items() if path.endswith("kernel"))


def test_dropout_leaves_predictions_alone():
    """It falls in training only, and as its key says."""
    inputs = tokens(1, LENGTH)
    dropping, params, apply = build(head="token", depth=1, dropout=0.5)
    train = jax.jit(lambda key: dropping.apply(params, {"inputs": inputs}, train=True, key=key)[0])
    assert (np.asarray(train(KEY)) != np.asarray(train(jax.random.key(1)))).any()
    np.testing.assert_array_equal(apply(inputs, {}), build(head="token", depth=1)[2](inputs, {}))


@pytest.mark.slow  # each family's blocks; GPT's are in the default suite
def test_rematerialisation_leaves_gradients_alone():
    """The same with dropout on, which must fall alike in both passes."""
    inputs = jnp.asarray(tokens(1, LENGTH))
    dropping, params, _ = build(head="token", depth=1, dropout=0.5)
    remat = build(head="token", depth=1, dropout=0.5, remat=True)[0]

    def gradient(model):
        def loss(params, key):
            return jnp.square(model.apply(params, {"inputs": inputs}, train=True, key=key)[0]).mean()

        return jax.jit(jax.value_and_grad(loss))

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3),
        gradient(dropping)(params, KEY),
        gradient(remat)(params, KEY),
    )


def test_initial_parameters_are_small():
    """Truncated normal of standard deviation 0.02 (Devlin et al. 2019), biases 0."""
    init = jax.jit(BERT(depth=1, width=64).build(Spec(200)).init)
    params = flatten(jax.device_get(init(KEY, {"inputs": np.zeros((1, 1), np.int32)})))
    for path, leaf in params.items():
        if path.endswith(("kernel", "embedding")) and leaf.size > 1000:
            np.testing.assert_allclose(leaf.std(), 0.02, rtol=0.2)
            assert np.abs(leaf).max() <= 0.05
        elif path.endswith("bias"):
            assert not leaf.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 18}, r"The width 18 is not divisible by 4 heads: .* --model.width 20"),
        ({"depth": 0}, "--model.depth is 0: give a number from 1"),
        ({"head": "sequence", "vocabulary": 0}, "set --model.vocabulary"),
        ({"head": "token", "outputs": 0}, "at least one output"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    """One sentence with the sizes, and what would fit."""
    options = dict(options)
    number = options.pop("outputs", LABELS)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **options).build(Spec(number))


def test_rows_longer_than_the_context_need_positions():
    """A row may be longer where it packs examples that are not; else it is refused with both lengths."""
    model, params, apply = build()
    rows = jnp.asarray(tokens(1, 2 * LENGTH))
    with pytest.raises(UserError, match="16 tokens are longer than the model's context of 8"):
        model.apply(params, {"inputs": rows})
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), 2)[None]
    assert apply(rows, {"positions": positions}).shape == (1, 2 * LENGTH, VOCABULARY)
