"""A user's own images are read exactly, and bad ones are refused with file and remedy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.core.errors import UserError
from research.data.vision.image_files import read_image_folder


def written(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def picture(path: Path, colour: tuple[int, ...], size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if mode != "L" else colour[0]).save(path)


def test_an_image_folder_gives_classes_by_name(tmp_path: Path) -> None:
    """Classes are the sub-folders in order; images become RGB of one size; other files are passed over."""
    picture(tmp_path / "dog/1.png", (10, 20, 30))
    picture(tmp_path / "cat/deep/2.png", (7,), mode="L")
    written(tmp_path / "cat/.hidden.png", "x")
    written(tmp_path / "cat/notes.txt", "x")
    images, labels, classes, names, *_ = read_image_folder(str(tmp_path), 3)
    assert classes == ("cat", "dog") and names == ("cat/deep/2.png", "dog/1.png")
    assert labels.tolist() == [0, 1] and images.shape == (2, 3, 3, 3) and images.dtype == np.uint8
    assert (images[0] == 7).all() and (images[1] == [10, 20, 30]).all()


def broken_png(path: Path) -> None:
    picture(path, (1, 2, 3), size=(64, 64))
    path.write_bytes(path.read_bytes()[:80])


Case = Callable[[Path], object]
BAD: dict[str, tuple[Case, str]] = {
    "no folder": (lambda folder: read_image_folder(str(folder / "none"), 4), "no folder"),
    "no classes": (lambda folder: read_image_folder(str(folder), 4), "no sub-folders"),
    "empty class": (lambda folder: ((folder / "cat").mkdir(), read_image_folder(str(folder), 4)), "cat has no images"),
    "cut image": (
        lambda folder: (broken_png(folder / "cat/1.png"), read_image_folder(str(folder), 4)),
        "1.png cannot be decoded",
    ),
    "no image": (
        lambda folder: (written(folder / "cat/1.png", "hello"), read_image_folder(str(folder), 4)),
        "1.png cannot be decoded",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name: str, tmp_path: Path) -> None:
    """Each kind of bad file is the user's mistake, named with its place."""
    case, message = BAD[name]
    with pytest.raises(UserError, match=message):
        case(tmp_path)
