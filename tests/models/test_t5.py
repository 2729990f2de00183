"""T5: published sizes, buckets of relative positions, and initial parameters. See also test_encoder_decoders.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.errors import UserError
from research.core.shapes import Spec
from research.core.trees import flatten
from research.models.layers.relative_positions import RelativePositions, buckets_of_distances
from research.models.t5 import T5

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # Hugging Face, google-t5/t5-small: 60,506,624
        (T5(6, width=512, heads=8, mlp_dim=2048), 60_506_624),
        # Hugging Face, google/t5-v1_1-small: 76,961,152
        (T5(8, width=512, heads=6, head_dim=64, mlp_dim=1024, activation="geglu", tied=False), 76_961_152),
    ],
)
def test_has_as_many_parameters_as_published(config, expected):
    """T5 small, version 1.0 and 1.1."""
    params = jax.eval_shape(config.build(Spec(32_128)).init, KEY, {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_distances_share_buckets_logarithmically():
    """T5's 32 buckets to a distance of 128: 16 of one distance, then wider ones.

    The edges are those of `_relative_position_bucket` in mesh_tensorflow/transformer/transformer_layers.py.
    """
    edges = [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    buckets = buckets_of_distances(32, 128)
    assert [int(np.argmax(buckets == bucket)) for bucket in range(32)] == edges
    assert buckets[-1] == 31


def test_biases_depend_on_distance_and_side_alone():
    """A shift of all positions changes nothing; behind the query all keys count in a decoder, ahead none."""
    places = jnp.arange(10)[None]
    for both_sides in (True, False):
        layer = RelativePositions(2, 8, 6, both_sides)
        params = layer.init(KEY, places, places, 16)
        biases = layer.apply(params, places, places, 16)
        assert biases.shape == (1, 2, 10, 10)
        np.testing.assert_array_equal(layer.apply(params, places + 7, places + 7, 16), biases)
        for distance in range(-9, 10):
            assert (np.ptp(np.diagonal(biases, distance, 2, 3), axis=-1) == 0).all()
        assert (biases[0, :, 0, 1:] != biases[0, :, 1:, 0]).any()
        assert (biases[0, :, 0, 1:] == biases[0, :, 0, :1]).all() != both_sides


def test_initial_parameters_are_those_of_the_published_code():
    """Standard deviations of T5's initialisation: queries are smaller, as their products are not scaled."""
    params = flatten(
        jax.jit(T5(1, width=64, heads=4, head_dim=32).build(Spec(200)).init)(
            KEY, {"inputs": jnp.zeros((1, 1), jnp.int32)}
        )
    )
    joined = params["decoder_0/attention/query_key_value/kernel"].reshape(64, 4, 3, 32)
    expected = {
        "token_embedding": 1.0,
        "decoder_0/attention/output/kernel": 128**-0.5,
        "decoder_0/cross_attention/query/kernel": (64 * 32) ** -0.5,
        "decoder_0/cross_attention/key_value/kernel": 64**-0.5,
        "encoder_0/mlp/up/kernel": 64**-0.5,
        "encoder_0/mlp/down/kernel": 256**-0.5,
        "encoder_relative_positions/embedding": 64**-0.5,
    }
    for path, deviation in expected.items():
        np.testing.assert_allclose(params[path].std(), deviation, rtol=0.15)
    np.testing.assert_allclose(joined.std((0, 1, 3)), [(64 * 32) ** -0.5, 64**-0.5, 64**-0.5], rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "--model.depth is 0: give a number from 1"),
        ({"width": 18}, r"The width 18 is not divisible by 4 heads: set --model.head-dim.* --model.width 20"),
        ({"buckets": 7}, "7 buckets"),
        ({"distance": 16}, "32 buckets up to a distance of 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    """One sentence with the sizes, and what would fit."""
    with pytest.raises(UserError, match=message):
        dataclasses.replace(T5(), **options).build(Spec(10))
