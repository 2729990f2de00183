"""A user's own images are read exactly, and bad ones are refused with file and remedy."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from research.core.errors import UserError
from research.data.vision.image_files import fit_image, read_image, read_image_folder


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
    images, labels, classes, names, _, facts = read_image_folder(str(tmp_path), 3)
    assert facts == {}
    assert classes == ("cat", "dog") and names == ("cat/deep/2.png", "dog/1.png")
    assert labels.tolist() == [0, 1] and images.shape == (2, 3, 3, 3) and images.dtype == np.uint8
    assert (images[0] == 7).all() and (images[1] == [10, 20, 30]).all()


def test_what_is_passed_over_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Documents, films and pictures of other formats, by the ends of their names; nothing hidden is read or counted."""
    picture(tmp_path / "cat/1.PNG", (1, 2, 3))
    picture(tmp_path / "cat/.ipynb_checkpoints/1-checkpoint.png", (1, 2, 3))
    (tmp_path / "cat/folder.png").mkdir()
    (tmp_path / "cat/self").symlink_to(tmp_path / "cat")
    capsys.readouterr()
    read_image_folder(str(tmp_path), 2)
    assert "'link to a folder' 1" in capsys.readouterr().err
    for name in ("a.pdf", "b.PDF", "c.eps", "d.heic", "e.svg", "f.psd", "README", ".hidden", "new\x1b[31m.\x1b[31m"):
        written(tmp_path / "cat" / name, "x")
    assert read_image_folder(str(tmp_path), 2).names == ("cat/1.PNG",)
    printed = capsys.readouterr().err
    assert (
        "'.pdf' 2, '' 1, '.\\x1b[31m' 1, '.eps' 1, '.heic' 1, ..." in printed
        and printed.count("\n") == 1
        and "\x1b" not in printed
    )


def opaque(mode: str, path: Path) -> Path:
    """Writes two pixels of one colour, the second of which is transparent, in one of the ways in which files say so."""
    image = Image.new("RGBA", (2, 1), (30, 60, 90, 255))
    image.putpixel((1, 0), (200, 10, 10, 0))
    one = Image.new("L", (2, 1), 60)
    one.putpixel((1, 0), 10)
    match mode:
        case "RGBA" | "LA":
            image.convert(mode).save(path.with_suffix(".png"))
            return path.with_suffix(".png")
        case "WEBP":
            image.save(path.with_suffix(".webp"), lossless=True, exact=True)
            return path.with_suffix(".webp")
        case "TIFF":
            image.save(path.with_suffix(".tif"))
            return path.with_suffix(".tif")
        case "PA":
            palette = Image.new("PA", (2, 1))
            palette.putpalette([60] * 3 + [10] * 3)
            palette.putdata([(0, 255), (1, 0)])
            palette.save(path.with_suffix(".tif"))
            return path.with_suffix(".tif")
        case "P" | "GIF":
            palette = Image.new("P", (2, 1))
            palette.putpalette([60] * 3 + [10] * 3)
            palette.putdata([0, 1])
            file = path.with_suffix(".png" if mode == "P" else ".gif")
            palette.save(file, transparency=1)
            return file
        case "L":
            one.save(path.with_suffix(".png"), transparency=10)
            return path.with_suffix(".png")
        case _:
            one.convert("RGB").save(path.with_suffix(".png"), transparency=(10, 10, 10))
            return path.with_suffix(".png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "WEBP", "TIFF", "PA", "P", "GIF", "L", "RGB"])
def test_hidden_colours_do_not_appear(mode: str, tmp_path: Path) -> None:
    """What a transparent pixel hides is white, in every way to be transparent; the others keep their colours."""
    file = opaque(mode, tmp_path / "a")
    visible = [30, 60, 90] if mode in ("RGBA", "WEBP", "TIFF") else [54] * 3 if mode == "LA" else [60] * 3
    assert read_image(file, (1, 2, 3)).tolist() == [[visible, [255] * 3]]
    assert read_image(file, (1, 2, 1))[0, 1].tolist() == [255]
    assert read_image(file, (1, 2, 4))[0, :, 3].tolist() == [255, 0]


def test_half_opaque_is_half_white() -> None:
    """The colour over white, as the standard of PNG has it (13.16): 255 - opacity (255 - colour)."""
    half = Image.new("RGBA", (4, 4), (0, 100, 200, 128))
    np.testing.assert_allclose(fit_image(half, (2, 2, 3))[0, 0].astype(int), [127, 177, 227], atol=1)


def test_scaling_mixes_visible_colours_only() -> None:
    """A transparent neighbour pales a red pixel, but does not bring in the blue that it hides."""
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (1, 0, 2, 2))
    red, green, blue = fit_image(image, (1, 1, 3)).ravel().tolist()
    assert red == 255 and green == blue and abs(green - 128) <= 1


@pytest.mark.parametrize(
    ("name", "mode", "colour", "options"),
    [
        ("a.jpg", "CMYK", (0, 255, 255, 0), {}),
        ("a.tif", "CMYK", (0, 255, 255, 0), {}),
        ("a.tif", "YCbCr", (76, 85, 255), {"compression": "jpeg"}),
        ("a.tif", "LAB", (136, 208, 195), {}),
        ("a.bmp", "P", 1, {}),
        ("a.webp", "RGB", (255, 0, 0), {}),
        ("a.avif", "RGB", (255, 0, 0), {}),
        ("a.jp2", "RGB", (255, 0, 0), {}),
        ("a.ppm", "RGB", (255, 0, 0), {}),
        ("a.mpo", "RGB", (255, 0, 0), {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}),
    ],
)
def test_red_is_red(name: str, mode: str, colour: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """In colours for print, of television, of the eye and of a palette, and in every format."""
    image = Image.new(mode, (8, 8), colour)
    if mode == "P":
        image.putpalette([0, 0, 255, 255, 0, 0])
    image.save(tmp_path / name, **options)
    found = read_image(tmp_path / name, (2, 2, 3))
    np.testing.assert_allclose(found.reshape(-1, 3).astype(int), [[255, 0, 0]] * 4, atol=12)


def test_black_and_white_are_0_and_255(tmp_path: Path) -> None:
    """One bit a pixel."""
    Image.fromarray(np.eye(2, dtype=bool)).save(tmp_path / "a.png")
    Image.fromarray(np.eye(2, dtype=bool)).save(tmp_path / "a.tif", compression="group4")
    for name in ("a.png", "a.tif"):
        assert read_image(tmp_path / name, (2, 2, 1))[..., 0].tolist() == [[255, 0], [0, 255]]


def test_files_with_several_images_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a line, and in the facts of the record."""
    picture(tmp_path / "cat/1.png", (1, 2, 3))
    pages = [Image.new("RGB", (4, 4), (shade,) * 3) for shade in (10, 20)]
    pages[0].save(tmp_path / "cat/2.tif", save_all=True, append_images=pages[1:])
    read = read_image_folder(str(tmp_path), 2)
    assert read.facts == {"first_of_several": 1} and (read.images[1] == 10).all()
    assert "of 1 files with several images the first one is read" in capsys.readouterr().err


def broken_png(path: Path) -> None:
    picture(path, (1, 2, 3), size=(64, 64))
    path.write_bytes(path.read_bytes()[:80])


Case = Callable[[Path], object]
BAD: dict[str, tuple[Case, str]] = {
    "no folder": (lambda folder: read_image_folder(str(folder / "none"), 4), "no folder"),
    "no classes": (lambda folder: read_image_folder(str(folder), 4), "no sub-folders"),
    "empty class": (
        lambda folder: ((folder / "cat").mkdir(), read_image_folder(str(folder), 4)),
        "cat has no images; add some",
    ),
    "other formats": (
        lambda folder: (written(folder / "cat/1.heic", "x"), read_image_folder(str(folder), 4)),
        r"cat has no images but other files \('.heic' 1\); add some",
    ),
    "size 0": (
        lambda folder: (picture(folder / "cat/1.png", (1,) * 3), read_image_folder(str(folder), 0)),
        "from 1 to",
    ),
    "huge size": (
        lambda folder: (picture(folder / "cat/1.png", (1,) * 3), read_image_folder(str(folder), 100_000)),
        r"100000 x 100000 pixels are asked for: give --data.size from 1 to 8192",
    ),
    "pipe": (
        lambda folder: ((folder / "cat").mkdir(), os.mkfifo(folder / "cat/z.png"), read_image_folder(str(folder), 4)),
        "z.png is a pipe or device, not a file",
    ),
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


def test_images_that_do_not_fit_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any is read: their number, their size, and what there is."""
    for index in range(40):
        written(tmp_path / f"cat/{index}.png", "not read")
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**18, "SC_PAGE_SIZE": 4096}.__getitem__)
    with pytest.raises(
        UserError, match=r"40 images of 2000 x 2000 pixels need 1 GB of memory, and 1 GB are here: give"
    ):
        read_image_folder(str(tmp_path), 2000)
