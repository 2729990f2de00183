"""Pictures of a folder or a data set: split by name, standardised by the training split, uint8 until the task."""

import shutil

import numpy as np
import pytest

from research.core.errors import UserError
from research.data import catalogue
from research.data.splitting import split_of
from research.data.vision.images import ImageData


def test_a_folder_becomes_splits_of_labelled_images(tiny_images):
    """Sub-folders are the classes, in order; every image is on exactly one side."""
    data = ImageData(folder=str(tiny_images), size=8, validation_fraction=0.25).build()
    assert (data.class_names, data.outputs) == (("bright", "dark"), 2)
    assert sum(map(len, data.splits.values())) == 48
    for rows in data.splits.values():
        assert rows.arrays["inputs"].dtype == np.uint8
        means = rows.arrays["inputs"].mean((1, 2, 3))
        np.testing.assert_array_equal(rows.arrays["labels"], (means < 128).astype(np.int32))
    counts = {name: facts["classes"] for name, facts in data.summary["splits"].items()}
    assert sum(map(sum, counts.values())) == 48


def test_the_standardisation_is_of_the_training_images(tiny_images):
    """Mean and deviation of each channel, as NumPy gives them in float64."""
    data = ImageData(folder=str(tiny_images), size=8, validation_fraction=0.25).build()
    pixels = data.splits["train"].arrays["inputs"].astype(np.float64)
    np.testing.assert_allclose(data.summary["standardisation"]["mean"], pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.summary["standardisation"]["std"], pixels.std((0, 1, 2)), rtol=1e-12)


def test_adding_images_moves_none_across(tiny_images, tmp_path):
    """The split of an image is decided by its name."""
    folder = shutil.copytree(tiny_images, tmp_path / "more")
    before = ImageData(folder=str(folder), size=8, validation_fraction=0.25).build()
    for index in range(24):
        shutil.copy(folder / "dark" / f"{index:02d}.png", folder / "dark" / f"new{index:02d}.png")
    after = ImageData(folder=str(folder), size=8, validation_fraction=0.25).build()
    for name, rows in before.splits.items():
        old = {row.tobytes() for row in rows.arrays["inputs"]}
        assert old <= {row.tobytes() for row in after.splits[name].arrays["inputs"]}


def test_an_empty_split_is_refused(tiny_images):
    """All held out leaves nothing to learn from; none held out makes no validation split."""
    with pytest.raises(UserError, match="split has no images"):
        ImageData(folder=str(tiny_images), size=8, validation_fraction=1.0).build()
    assert set(ImageData(folder=str(tiny_images), size=8, validation_fraction=0.0).build().splits) == {"train"}


def records(count: int):
    return [{"image": np.full((4, 4, 1), n, np.uint8), "label": n % 2} for n in range(count)]


def use_data_set(monkeypatch, splits):
    monkeypatch.setattr(catalogue, "load", lambda name: splits)
    monkeypatch.setattr(catalogue, "info", lambda name: {"name": name, "labels": {"label": ["even", "odd"]}})


def test_a_split_without_a_class_is_said(tiny_images, tmp_path, capsys):
    """Its macro averages would count that class as one that is never recognised."""
    folder = shutil.copytree(tiny_images, tmp_path / "folder")
    for path in sorted((folder / "dark").iterdir()):
        if split_of(f"dark/{path.name}", {"train": 0.75, "validation": 0.25}) == "validation":
            path.unlink()
    data = ImageData(folder=str(folder), size=8, validation_fraction=0.25).build()
    count = len(data.splits["validation"])
    assert data.summary["splits"]["validation"]["classes"] == [count, 0]
    assert f"the validation split, of {count} images, has none of dark: give more" in capsys.readouterr().err


def test_a_data_sets_own_test_split_is_kept_and_its_training_split_divided(monkeypatch):
    """Validation comes out of the training images alone."""
    use_data_set(monkeypatch, {"train": records(100), "test": records(7)})
    data = ImageData("any", validation_fraction=0.2).build()
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 100
    assert (len(data.splits["test"]), data.class_names) == (7, ("even", "odd"))
    assert 5 < len(data.splits["validation"]) < 40


def test_a_data_sets_own_validation_split_is_used(monkeypatch):
    """Then nothing is held out."""
    use_data_set(monkeypatch, {"train": records(10), "validation": records(4)})
    data = ImageData("any").build()
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 10, "validation": 4}


def test_a_field_that_a_data_set_lacks_is_named(monkeypatch):
    """With the fields that there are."""
    use_data_set(monkeypatch, {"train": records(3)})
    with pytest.raises(UserError, match=r"no field 'picture' but image, label: name the right ones"):
        ImageData("any", image="picture").build()


@pytest.mark.parametrize("image", [np.zeros((4, 4, 1), np.uint16), np.zeros((4, 4, 1), np.float32), np.uint8(3)])
def test_images_of_a_data_set_that_are_not_of_8_bits_are_refused(monkeypatch, image):
    """With what the field holds, and what to do."""
    use_data_set(monkeypatch, {"train": [{"image": image, "label": 0}] * 3})
    with pytest.raises(UserError, match=r"The field 'image' of 'any' holds .*, not uint8 \[height width channels\]"):
        ImageData("any").build()
