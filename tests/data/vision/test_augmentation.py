"""Augmentation: each change against NumPy, and what the batch as a whole keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.vision.augmentation import Augmentation, cutout, flip, mixup, random_crop

seeds = st.integers(0, 2**31 - 1)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 7, 3))
IMAGES = jnp.asarray(PIXELS.astype(np.uint8))
IMAGE = jnp.asarray(PIXELS[0].astype(np.float32))
LABELS = jnp.asarray(np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]])
CROP, CUTOUT = (jax.jit(function, static_argnums=2) for function in (random_crop, cutout))
MIXUP = jax.jit(mixup, static_argnums=3)
EVERYTHING = Augmentation(crop=2, flip=True, random_layers=1, cutout=3, mixup=0.4)


def test_nothing_chosen_changes_nothing():
    """The default leaves images, their type and their labels as they are."""
    images, labels = Augmentation().apply(jax.random.key(0), IMAGES, LABELS)
    assert images.dtype == jnp.uint8
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_flipping_mirrors_and_twice_is_once_not():
    """Columns run backwards; a second flip restores the image."""
    np.testing.assert_array_equal(flip(IMAGE), np.asarray(IMAGE)[:, ::-1, :])
    np.testing.assert_array_equal(flip(flip(IMAGE)), IMAGE)


def test_cropping_without_padding_is_the_identity():
    """There is one window only."""
    np.testing.assert_array_equal(random_crop(jax.random.key(0), IMAGE, 0), IMAGE)


@given(seed=seeds, padding=st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_a_crop_is_a_window_of_the_padded_image(seed, padding):
    """Some window of the image's size in NumPy's padded image equals the crop."""
    crop = np.asarray(CROP(jax.random.key(seed), IMAGE, padding))
    padded = np.pad(IMAGE, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, IMAGE.shape).reshape(-1, *IMAGE.shape)
    assert sum(np.array_equal(window, crop) for window in windows) == 1


def test_every_window_is_drawn():
    """All 25 offsets of a padding of 2 occur in 400 crops, none more than thrice as often as it should."""
    crops = jax.jit(jax.vmap(lambda key: random_crop(key, IMAGE, 2)))(jax.random.split(jax.random.key(0), 400))
    _, counts = np.unique(np.asarray(crops).reshape(400, -1), axis=0, return_counts=True)
    assert len(counts) == 25 and counts.max() < 48


@given(seed=seeds, size=st.sampled_from([1, 3, 20]))
@settings(max_examples=30, deadline=None)
def test_cutout_paints_one_rectangle_with_the_mean(seed, size):
    """What differs fills a rectangle no larger than the square, in the mean colour."""
    found = np.asarray(CUTOUT(jax.random.key(seed), IMAGE, size))
    rows, columns = np.nonzero((found != np.asarray(IMAGE)).any(-1))
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    assert bottom - top <= size and right - left <= size
    expected = np.array(IMAGE)
    expected[top:bottom, left:right] = expected.mean((0, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@given(seed=seeds, alpha=st.sampled_from([0.1, 5.0]))
@settings(max_examples=20, deadline=None)
def test_mixup_keeps_the_label_mass_and_mixes_images_by_it(seed, alpha):
    """Labels still sum to one, and each image is mixed by the fraction that its label shows."""
    labels = np.eye(6, dtype=np.float32)
    mixed = MIXUP(jax.random.key(seed), jnp.asarray(PIXELS.astype(np.float32)), jnp.asarray(labels), alpha)
    images, soft = map(np.asarray, mixed)
    np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(soft.sum(), labels.sum(), rtol=1e-5)
    np.testing.assert_allclose(images, np.einsum("ij,jhwc->ihwc", soft, PIXELS), rtol=1e-4, atol=1e-2)


def test_mixup_draws_fractions_from_beta():
    """Mean one half and variance 1 / (4 (2 alpha + 1)), as Beta(alpha, alpha) has."""
    count, alpha = 4000, 0.5
    sides = jnp.asarray(np.eye(2, dtype=np.float32)[np.arange(count) % 2])
    fractions = np.asarray(MIXUP(jax.random.key(0), sides, jnp.zeros((count, 1)), alpha)[0])
    own = np.where(np.arange(count) % 2, fractions[:, 1], fractions[:, 0])
    assert own.mean() == pytest.approx(0.5, abs=0.02)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_an_examples_change_does_not_depend_on_its_batch():
    """The first images change alike in a batch of six, of three, and among other images; no two change by one key."""
    change = jax.jit(Augmentation(crop=2, flip=True, random_layers=1, cutout=3).apply)
    key = jax.random.key(3)
    full, _ = change(key, IMAGES, LABELS)
    part, _ = change(key, IMAGES[:3], LABELS[:3])
    among, _ = change(key, jnp.asarray(np.where(np.arange(6)[:, None, None, None] < 3, IMAGES, 0)), LABELS)
    full, part, among = map(np.asarray, (full, part, among))
    np.testing.assert_array_equal(full[:3], part)
    np.testing.assert_array_equal(full[:3], among[:3])
    copies = jnp.asarray(np.broadcast_to(IMAGES[:1], IMAGES.shape))
    same, _ = jax.jit(Augmentation(crop=4).apply)(key, copies, LABELS)
    assert len(np.unique(np.asarray(same).reshape(6, -1), axis=0)) > 3


def test_everything_together_is_a_function_of_the_key():
    """Equal keys give equal bits; another key gives another batch."""
    change = jax.jit(EVERYTHING.apply)
    first, again, other = (jax.device_get(change(jax.random.key(seed), IMAGES, LABELS)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()
    assert first[0].shape == IMAGES.shape and first[0].min() >= 0 and first[0].max() <= 255


def test_tables_may_be_mixed_but_not_cropped():
    """Mixup serves any examples; changes of images say what they found."""
    table = jnp.ones((6, 5))
    mixed, _ = jax.jit(Augmentation(mixup=0.2).apply)(jax.random.key(0), table, LABELS)
    np.testing.assert_allclose(mixed, table, rtol=1e-6)
    with pytest.raises(UserError, match=r"found examples of shape \(5,\)"):
        Augmentation(crop=2).apply(jax.random.key(0), table, LABELS)
