"""The original transformer: published sizes, sinusoids and sizes that do not fit. See also test_encoder_decoders.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.errors import UserError
from research.core.shapes import Spec
from research.core.trees import flatten
from research.models.transformer import Transformer, sinusoids

KEY = jax.random.key(0)
BASE = Transformer(6, width=512, heads=8, context=512)


@pytest.mark.parametrize(
    ("config", "vocabulary", "expected"),
    [
        # transformers, MarianMTModel of Helsinki-NLP/opus-mt-en-es (65,001 tokens): 77,943,296, with two tables of 512
        # sinusoids and without the bias of the logits
        (dataclasses.replace(BASE, head_bias=True), 65_001, 77_943_296 - 2 * 512 * 512 + 65_001),
        # Vaswani et al. 2017, table 3: 65 million, with 37,000 tokens, and two norms more in each stack of theirs
        (BASE, 37_000, 63_082_496),
    ],
)
def test_has_as_many_parameters_as_published(config, vocabulary, expected):
    """Marian's translation models, and the base model of the paper."""
    params = jax.eval_shape(
        config.build(Spec(vocabulary)).init, KEY, {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)}
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_sinusoids_are_those_of_the_paper():
    """Section 3.5: PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) the cosine; Marian has all sines first."""
    found = sinusoids(50, 8, "interleaved")
    for position in (0, 1, 49):
        for pair in range(4):
            angle = position / 10_000 ** (2 * pair / 8)
            np.testing.assert_allclose(found[position, 2 * pair : 2 * pair + 2], [np.sin(angle), np.cos(angle)])
    halves = np.concatenate([found[:, ::2], found[:, 1::2]], axis=1)
    np.testing.assert_array_equal(sinusoids(50, 8, "halves"), halves)


def test_embeddings_are_scaled_and_positions_added():
    """Section 3.4: with blocks that do nothing the tied logits are those of embedding x sqrt(width) + sinusoid."""
    model = Transformer(1, width=16, heads=2, norm_first=True).build(Spec(9))
    params = jax.jit(model.init)(KEY, {"inputs": jnp.zeros((1, 1), jnp.int32)})
    flat = flatten(params)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if "output" in str(path) or "down" in str(path) else leaf, params
    )
    tokens = jnp.int32([[3, 1, 4]])
    table = np.asarray(flat["token_embedding"])
    x = 4 * table[tokens] + sinusoids(3, 16, "interleaved")
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    found = jax.jit(lambda params: model.apply(params, {"inputs": tokens, "decoder_inputs": tokens})[0])(silent)
    np.testing.assert_allclose(found, x @ table.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "--model.context is 0: give a number from 1"),
        ({"width": 18}, r"The width 18 is not divisible by 4 heads .* --model.width 20"),
        ({"width": 9, "heads": 3}, r"--model.width 12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    """One sentence with the sizes, and what would fit."""
    with pytest.raises(UserError, match=message):
        dataclasses.replace(BASE, **{"heads": 4, **options}).build(Spec(10))


def test_rows_longer_than_the_context_are_refused():
    """With both lengths."""
    model = dataclasses.replace(BASE, depth=1, width=16, context=4).build(Spec(10))
    params = jax.eval_shape(model.init, KEY, {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    with pytest.raises(UserError, match="5 tokens are longer than the model's context of 4"):
        jax.eval_shape(model.apply, params, {"inputs": jax.ShapeDtypeStruct((1, 5), jnp.int32)})
