"""T5 and the original transformer: decoders see no future, caches, packing and padding change nothing."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.mesh import MeshConfig, shard
from research.core.shapes import Spec
from research.core.trees import flatten, match_rules
from research.models.t5 import T5
from research.models.transformer import Transformer
from research.train.optimizers import WEIGHT_DECAY_MULTIPLIERS

KEY = jax.random.key(0)
VOCABULARY, SOURCE, TARGET = 11, 7, 6
TINY_T5 = T5(depth=2, width=16, heads=4, buckets=8, distance=6)
TINY = Transformer(depth=2, width=16, heads=4, context=12)
CONFIGS: dict[str, Any] = {
    "T5": TINY_T5,
    "T5 1.1": dataclasses.replace(TINY_T5, activation="geglu", tied=False, head_dim=6, decoder_depth=1),
    "original": TINY,
    "pre-norm": dataclasses.replace(TINY, norm_first=True, tied=False, decoder_depth=1),
    "Marian": dataclasses.replace(
        TINY, sinusoid="halves", head_bias=True, activation="silu", source_vocabulary=13, scaled_embedding=False
    ),
}
EACH = pytest.mark.parametrize("name", CONFIGS)
# By default one of each two that take the same path.
SOME = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("T5", {}, marks=pytest.mark.slow),
        ("T5", {"remat": True}),
        ("T5 1.1", {}),
        pytest.param("original", {}, marks=pytest.mark.slow),
        ("pre-norm", {}),
        ("Marian", {}),
    ],
)


@functools.cache
def build(name: str, **options: Any):
    """The model and parameters of its shapes, drawn so large that every part matters."""
    model = dataclasses.replace(CONFIGS[name], **options).build(Spec(VOCABULARY))
    shapes = jax.eval_shape(model.init, KEY, {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.4 * random.standard_normal(leaf.shape, np.float32)), shapes)
    return model, params, jax.jit(lambda inputs, extra: model.apply(params, {"inputs": inputs, **extra})[0])


def logits(name: str, inputs: np.ndarray, decoder_inputs: np.ndarray, **extra: np.ndarray) -> np.ndarray:
    """The logits of a model; always for eight rows with all extras, so that it compiles once."""
    defaults = {"segments": np.ones_like(inputs), "decoder_segments": np.ones_like(decoder_inputs)}
    defaults |= {"positions": np.arange(SOURCE, dtype=np.int32)[None]}
    defaults |= {"decoder_positions": np.arange(TARGET, dtype=np.int32)[None]}
    arrays = {"inputs": inputs, "decoder_inputs": decoder_inputs, **defaults, **extra}
    arrays = {key: np.resize(array, (8, *array.shape[1:])) for key, array in arrays.items()}
    return np.asarray(build(name)[2](arrays.pop("inputs"), arrays))[: max(len(inputs), len(decoder_inputs))]


def tokens(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, VOCABULARY, shape).astype(np.int32)


def changed(row: np.ndarray) -> np.ndarray:
    """The row with one token changed, once for each of its places."""
    other = np.where(row == VOCABULARY - 1, 2, row + 1)
    return np.where(np.eye(row.shape[1], dtype=bool), other, row).astype(np.int32)


@EACH
def test_the_target_sees_no_future_and_all_of_the_source(name):
    """A token changes the logits of its place, and not one bit before it; a source token changes those everywhere."""
    source, target = tokens(1, SOURCE), tokens(1, TARGET, seed=2)
    rows = np.concatenate([target, changed(target)])
    found = logits(name, source, rows)
    for place in range(TARGET):
        np.testing.assert_array_equal(found[1 + place, :place], found[0, :place])
        assert (np.abs(found[1 + place, place:] - found[0, place:]).max(-1) > 1e-5).all()
    sources = np.concatenate([source, changed(source)])
    found = logits(name, sources, target)
    assert (np.abs(found[1:] - found[0]).max(-1) > 1e-5).all()


@EACH
def test_packed_pairs_equal_unpacked_ones(name):
    """Two pairs and padding in one row give what each gives where padding takes the other's place."""
    source, target = tokens(1, SOURCE), tokens(1, TARGET, seed=2)
    segments, decoder_segments = np.int32([[1, 1, 1, 1, 2, 2, 0]]), np.int32([[1, 1, 2, 2, 2, 0]])
    places = {"positions": np.int32([[0, 1, 2, 3, 0, 1, 0]]), "decoder_positions": np.int32([[0, 1, 0, 1, 2, 0]])}
    both = {"segments": segments, "decoder_segments": decoder_segments, **places}
    packed = logits(name, source, target, **both)
    for example in (1, 2):
        own, decoder_own = segments == example, decoder_segments == example
        alone = {"segments": own.astype(np.int32), "decoder_segments": decoder_own.astype(np.int32), **places}
        found = logits(name, np.where(own, source, 1), np.where(decoder_own, target, 1), **alone)
        np.testing.assert_allclose(packed[decoder_own], found[decoder_own], rtol=1e-4, atol=1e-5)
    joined = logits(name, source, target, **places)
    assert np.abs(packed - joined)[0, :2].max() > 1e-3


@EACH
def test_padding_changes_nothing(name):
    """Neither what stands in the padding of source and target, nor on which side it is."""
    found = []
    for filler, left in ((1, 0), (7, 0), (1, 2), (7, 2)):

        def padded(row: np.ndarray, prefix: str, filler=filler, left=left) -> dict[str, np.ndarray]:
            size = row.shape[1]
            full = np.full((1, size + 2), filler, np.int32)
            segments, places = np.zeros_like(full), np.arange(size + 2, dtype=np.int32)[None]
            full[:, left : left + size], segments[:, left : left + size] = row, 1
            made = {"inputs": full, "segments": segments, "positions": np.maximum(places - left, 0)}
            return {prefix + name: array for name, array in made.items()}

        given = padded(tokens(1, SOURCE - 2), "") | padded(tokens(1, TARGET - 2, seed=2), "decoder_")
        found.append(
            logits(name, given.pop("inputs"), given.pop("decoder_inputs"), **given)[:, left : left + TARGET - 2]
        )
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)


@SOME
def test_cached_decoding_equals_the_whole_pass(name, options):
    """Ragged prompts padded on the left, prefilled in chunks, then token by token; the encoder runs once."""
    model, params, _ = build(name, **options)
    source, target = tokens(2, SOURCE), tokens(2, TARGET, seed=2)
    segments, first = np.int32([[1] * SOURCE, [0] + [1] * 4 + [0] * 2]), np.int32([0, 2])
    inside = (np.arange(TARGET) >= first[:, None]).astype(np.int32)
    places = np.maximum(np.arange(TARGET) - first[:, None], 0).astype(np.int32)
    expected = logits(name, source, target, segments=segments, decoder_segments=inside, decoder_positions=places)
    init_cache = jax.jit(
        lambda inputs, segments: model.decoding.init_cache(params, 2, 10, inputs=inputs, segments=segments)
    )
    cache = init_cache(source, segments)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(cache))
    decode_step = jax.jit(model.decoding.decode_step)
    for start, end in ((0, 3), (3, 4), (4, 5), (5, 6)):
        found, cache = decode_step(params, cache, target[:, start:end], np.int32(start), first)
        seen = inside[:, start:end].astype(bool)
        np.testing.assert_allclose(np.asarray(found)[seen], expected[:, start:end][seen], rtol=1e-4, atol=2e-5)
    step = jnp.asarray(target[:, :1])
    computed = str(jax.make_jaxpr(model.decoding.decode_step)(params, cache, step, jnp.int32(0), jnp.asarray(first)))
    blocks = [layers for path, layers in params.items() if path.startswith("decoder_") and "mlp" in layers]
    # In each block two attentions, each with a product before and after and two inside, and an MLP; then the head.
    assert computed.count("dot_general") == sum(2 * 4 + len(block["mlp"]) for block in blocks) + 1


@EACH
def test_every_parameter_has_one_sharding_and_one_decay(name):
    """The rules fit all options, and a mesh splits all kernels."""
    model, params, _ = build(name)
    match_rules(model.sharding, params, what="sharding")
    match_rules(WEIGHT_DECAY_MULTIPLIERS, params, what="weight decay")
    mesh = MeshConfig(1, fsdp=4, tensor=2).build(jax.devices()[:1] * 8)
    shardings = flatten(shard(mesh, model.sharding, params))
    assert all(not s.is_fully_replicated for path, s in shardings.items() if path.endswith("kernel"))


@pytest.mark.parametrize("name", ["T5", "original"])
def test_extras_have_defaults(name):
    """One example a row, positions along it."""
    source, target = tokens(8, SOURCE), tokens(8, TARGET)
    found = build(name)[2](source, {"decoder_inputs": target})
    np.testing.assert_allclose(found, logits(name, source, target), rtol=1e-5, atol=1e-5)


def test_dropout_leaves_predictions_alone():
    """It falls in training only, and as its key says."""
    dropping, params, apply = build("T5", depth=1, dropout=0.3)
    batch = {"inputs": tokens(1, SOURCE), "decoder_inputs": tokens(1, TARGET)}
    train = jax.jit(lambda key: dropping.apply(params, batch, train=True, key=key)[0])
    assert (np.asarray(train(KEY)) != np.asarray(train(jax.random.key(1)))).any()
    extra = {"decoder_inputs": batch["decoder_inputs"]}
    np.testing.assert_array_equal(apply(batch["inputs"], extra), build("T5", depth=1)[2](batch["inputs"], extra))


@pytest.mark.slow  # each family's blocks; GPT's are in the default suite
def test_rematerialisation_leaves_gradients_alone():
    """The same with dropout on, which must fall alike in both passes."""
    dropping, params, _ = build("T5", depth=1, dropout=0.3)
    remat = build("T5", depth=1, dropout=0.3, remat=True)[0]
    source, target = jnp.asarray(tokens(1, SOURCE)), jnp.asarray(tokens(1, TARGET))

    def gradient(model):
        def loss(params, key):
            return jnp.square(
                model.apply(params, {"inputs": source, "decoder_inputs": target}, train=True, key=key)[0]
            ).mean()

        return jax.jit(jax.value_and_grad(loss))

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3),
        gradient(dropping)(params, KEY),
        gradient(remat)(params, KEY),
    )


@SOME
def test_attention_is_shown_when_asked_for(name, options):
    """Of each block of the decoder, over the source's own tokens; unasked, there is none."""
    model, params, _ = build(name, **options)
    source, target = jnp.asarray(tokens(2, SOURCE)), jnp.asarray(tokens(2, TARGET, seed=2))
    extra = {"decoder_inputs": target, "segments": jnp.int32([[1] * SOURCE, [1] * 3 + [0] * (SOURCE - 3)])}
    shown = jax.jit(lambda params: model.apply(params, {"inputs": source, **extra}, attention=True)[1].attention)(
        params
    )
    blocks = [path for path, layers in params.items() if path.startswith("decoder_") and "mlp" in layers]
    assert sorted(shown) == [f"{block}/cross_attention" for block in sorted(blocks)]
    for weights in shown.values():
        assert weights.shape == (2, 4, TARGET, SOURCE)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        assert (weights[1, ..., 3:] == 0).all() and (weights[1, ..., :3] > 0).any()
    assert jax.eval_shape(lambda: model.apply(params, {"inputs": source, **extra})[1].attention) == {}
