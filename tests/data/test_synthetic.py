"""Data drawn from a formula: the same for one seed, and as their formula says."""

import numpy as np
import pytest

from research.data.synthetic import CloudData, LineData, NoiseData, TokenData


@pytest.mark.parametrize("config", [LineData, CloudData, NoiseData])
def test_a_seed_draws_the_same_data_and_another_seed_others(config):
    """Bit for bit."""
    first, again, other = (config(seed=seed).build().splits["train"].arrays for seed in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["inputs"] != other["inputs"]).any()
    assert first["inputs"].dtype == np.float32


def test_the_target_of_a_line_is_the_sum_of_its_features():
    """Up to the noise; validation is drawn apart from training."""
    data = LineData(examples=2000, features=3, noise=0.1).build()
    train, validation = (data.splits[name].arrays for name in ("train", "validation"))
    errors = train["targets"][:, 0] - train["inputs"].sum(1)
    np.testing.assert_allclose(errors.std(), 0.1, rtol=0.05)
    assert (data.outputs, train["inputs"].shape) == (1, (2000, 3))
    assert not np.isin(validation["targets"], train["targets"]).any()


@pytest.mark.parametrize(("centres", "outputs"), [((0.0, 0.1), 1), ((0.0, 1.0, 2.0), 3)])
def test_clouds_have_their_centres_and_deviations(centres, outputs):
    """Two clouds are a binary question, more are classes."""
    stds = tuple(0.1 * (1 + index) for index in range(len(centres)))
    data = CloudData(examples=500, features=20, stds=stds, centres=centres).build()
    arrays = data.splits["train"].arrays
    assert (data.outputs, len(data.class_names)) == (outputs, len(centres))
    for label, (centre, std) in enumerate(zip(centres, stds, strict=True)):
        cloud = arrays["inputs"][arrays["labels"] == label]
        assert len(cloud) == 500
        np.testing.assert_allclose([cloud.mean(), cloud.std()], [centre, std], atol=0.01)


def test_noise_has_nothing_to_validate():
    """Uniform inputs and labels of every class, in a training split alone."""
    data = NoiseData(examples=3000, features=5, classes=4).build()
    arrays = data.splits["train"].arrays
    assert set(data.splits) == {"train"}
    assert data.outputs == 4
    assert (np.bincount(arrays["labels"]) > 600).all()
    np.testing.assert_allclose(arrays["inputs"].mean(), 0.5, atol=0.01)


def test_tokens_are_uniform_and_the_targets_come_next():
    """Rows of the length asked for, drawn apart for training and validation, from the whole vocabulary."""
    data = TokenData(vocabulary=50, length=16, examples=200).build()
    row = data.splits["train"][3]
    np.testing.assert_array_equal(row["inputs"][1:], row["targets"][:-1])
    assert {name: len(records) for name, records in data.splits.items()} == {"train": 200, "validation": 200}
    assert (data.outputs, row["inputs"].shape, row["mask"].sum()) == (50, (16,), 16)
    counts = np.bincount(data.tokens["train"], minlength=50)
    np.testing.assert_allclose(counts, 200 * 16 / 50, rtol=0.6)
    assert (data.tokens["train"] != data.tokens["validation"]).mean() > 0.9
    again, other = (TokenData(seed=seed).build().tokens["train"] for seed in (0, 1))
    np.testing.assert_array_equal(TokenData().build().tokens["train"], again)
    assert (again != other).any()
