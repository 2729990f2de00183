"""The grid of pictures with right and wrong predictions."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from research.launch.image_predictions import COUNT, png, prediction_grid


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_kept_to_the_pixel(channels):
    """A picture comes back from the page as it went in, grey or in colour."""
    image = np.random.default_rng(0).integers(0, 256, (12, 10, channels)).astype(np.uint8)
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(png(image)))))
    np.testing.assert_array_equal(back.reshape(image.shape), image)


def test_right_and_wrong_predictions_are_told_apart():
    """Each picture stands on its side with its true and its predicted class, and the mistakes are counted."""
    images = np.zeros((4, 2, 2, 1), np.uint8)
    grid = prediction_grid(images, np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), ["cat", "dog"])
    assert (grid["examples"], grid["wrong_total"]) == (4, 2)
    assert [(p["label"], p["predicted"]) for p in grid["wrong"]] == [("dog", "cat"), ("2", "dog")]
    assert [(p["label"], p["predicted"]) for p in grid["right"]] == [("cat", "cat"), ("dog", "dog")]


def test_every_class_gets_its_turn():
    """Of many mistakes those shown are spread over the classes, though one class has nearly all of them."""
    labels = np.array([0] * 200 + [1] * 3 + [2] * 3)
    grid = prediction_grid(np.zeros((206, 2, 2, 1), np.uint8), labels, (labels + 1) % 3, ["a", "b", "c"])
    shown = [picture["label"] for picture in grid["wrong"]]
    assert len(shown) == COUNT
    assert shown[:6] == ["a", "b", "c", "a", "b", "c"]
