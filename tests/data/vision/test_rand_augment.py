"""RandAugment's operations against Pillow's, which defined them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from research.data.vision import rand_augment

RNG = np.random.default_rng(0)
# A picture with a gradient and some noise, so that histograms are neither flat nor empty.
PIXELS = (np.linspace(30, 190, 24)[:, None, None] + RNG.integers(0, 40, (24, 20, 3))).astype(np.uint8)
PICTURE = Image.fromarray(PIXELS)
IMAGE = jnp.asarray(PIXELS, jnp.float32)
OPERATE = jax.jit(rand_augment.operate)
STRENGTHS = [jnp.float32(strength) for strength in (-1.0, -0.4, 0.3, 1.0)]


def test_auto_contrast_is_pillows():
    """Each channel is stretched from 0 to 255; Pillow rounds down."""
    np.testing.assert_allclose(rand_augment.auto_contrast(IMAGE), ImageOps.autocontrast(PICTURE), atol=1.01)


def test_equalize_is_pillows():
    """The same table of levels, channel by channel; a picture of one colour stays."""
    np.testing.assert_array_equal(rand_augment.equalize(IMAGE), ImageOps.equalize(PICTURE))
    flat = jnp.full((8, 8, 1), 77.0)
    np.testing.assert_array_equal(rand_augment.equalize(flat), flat)
    np.testing.assert_array_equal(rand_augment.auto_contrast(flat), flat)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_solarize_and_posterize_are_pillows(strength):
    """Thresholds fall from 255 to 0, bits from 8 to 4."""
    threshold = 255 * (1 - abs(float(strength)))
    np.testing.assert_array_equal(rand_augment.solarize(IMAGE, strength), ImageOps.solarize(PICTURE, threshold))
    bits = 8 - round(4 * abs(float(strength)))
    np.testing.assert_array_equal(rand_augment.posterize(IMAGE, strength), ImageOps.posterize(PICTURE, bits))


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(
    ("operation", "enhancer"),
    [
        (rand_augment.colour, ImageEnhance.Color),
        (rand_augment.contrast, ImageEnhance.Contrast),
        (rand_augment.brightness, ImageEnhance.Brightness),
        (rand_augment.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancements_are_pillows(operation, enhancer, strength):
    """Factors from 0.1 to 1.9; Pillow rounds at every stage, so that two levels of difference are allowed."""
    expected = np.asarray(enhancer(PICTURE).enhance(1 + 0.9 * float(strength)), np.float32)
    np.testing.assert_allclose(operation(IMAGE, strength), expected, atol=2)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("index", range(rand_augment.GEOMETRIC))
def test_geometric_operations_are_pillows(index, strength):
    """Pillow's nearest-neighbour transform by the same matrix about the centre; ties of rounding may differ."""
    height, width, _ = PIXELS.shape
    matrix = np.asarray(rand_augment.geometry(strength, height, width))[index]
    centre = np.array([width / 2, height / 2])
    offset = centre + matrix[:, 2] - matrix[:, :2] @ centre
    table = (*matrix[0, :2], offset[0], *matrix[1, :2], offset[1])
    expected = PICTURE.transform(PICTURE.size, Image.Transform.AFFINE, table, Image.Resampling.NEAREST)
    found = OPERATE(jnp.int32(len(rand_augment.COLOUR) + index), IMAGE, strength)
    assert (np.asarray(found) == np.asarray(expected)).mean() > 0.98


def test_geometry_has_the_papers_ranges():
    """Full strength rotates by 30 degrees, shears by 0.3 and shifts by 150/331 of the side."""
    matrices = np.asarray(rand_augment.geometry(jnp.float32(1), 100, 200))
    assert np.degrees(np.arccos(matrices[0, 0, 0])) == pytest.approx(30, abs=1e-3)
    assert (matrices[1, 0, 1], matrices[2, 1, 0]) == pytest.approx((0.3, 0.3))
    assert (matrices[3, 0, 2], matrices[4, 1, 2]) == pytest.approx((200 * 150 / 331, 100 * 150 / 331))


def test_strength_zero_changes_nothing_but_histograms():
    """Every operation with a strength is the identity at none."""
    for index in (0, *range(3, len(rand_augment.COLOUR) + rand_augment.GEOMETRIC)):
        found = OPERATE(jnp.int32(index), IMAGE, jnp.float32(0))
        np.testing.assert_allclose(found, IMAGE, atol=1e-3)


def test_layers_draw_all_operations_and_stay_in_range():
    """Over 200 keys the results are many, all of them pictures; grey pictures work as colour ones do."""
    keys = jax.random.split(jax.random.key(0), 200)
    change = jax.jit(jax.vmap(partial(rand_augment.rand_augment, layers=1, magnitude=15), in_axes=(0, None)))
    for image in (IMAGE, IMAGE[:, :, :1]):
        found = change(keys, image)
        assert found.min() >= 0 and found.max() <= 255
        distinct = len(np.unique(found.reshape(200, -1).round(), axis=0))
        # Directions double 5 geometric and 4 blended operations; a grey picture's colour cannot be changed.
        assert distinct == (23 if image.shape[-1] == 3 else 21)
