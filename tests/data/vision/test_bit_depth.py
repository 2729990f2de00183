"""Images of more than 8 bits are brought to 8 by one stated rule for the whole data set, or refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.core.errors import UserError
from research.data.vision.bit_depth import Ranges
from research.data.vision.image_files import read_image, read_image_folder
from research.data.vision.images import ImageData

GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def save(path: Path, values: np.ndarray, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode is None:
        Image.fromarray(values).save(path, **options)
    else:
        Image.frombytes(mode, values.shape[::-1], values.tobytes()).save(path, **options)
    return path


def test_sixteen_bits_keep_their_greys(tmp_path: Path) -> None:
    """8 bits stored in 16 (times 257), in each form that Pillow knows, come back as they were."""
    wide = GREYS * np.uint16(257)
    files = [
        save(tmp_path / "a.png", wide),
        save(tmp_path / "a.tif", wide),
        save(tmp_path / "big-endian.tif", wide.astype(">u2"), "I;16B"),
        save(tmp_path / "packed.tif", wide, compression="tiff_lzw"),
        save(tmp_path / "a.pgm", wide),
        save(tmp_path / "wide.tif", wide.astype(np.int32)),
        save(tmp_path / "float.tif", (GREYS / 255).astype(np.float32)),
        save(tmp_path / "a.pfm", (GREYS / 255).astype(np.float32)),
    ]
    for file in files:
        for channels in (1, 3, 4):
            found = read_image(file, (16, 16, channels))
            np.testing.assert_array_equal(found[..., 0], GREYS, err_msg=file.name)
            assert (found[..., 3:] == 255).all() and (found[..., :3] == found[..., :1]).all()


def test_a_data_set_has_one_rule(tmp_path: Path) -> None:
    """Scans of 12 bits: the bits in use anywhere make the rule, and the record says it; a dark scan stays dark."""
    save(tmp_path / "a/full.png", np.full((4, 4), 4095, np.uint16))
    save(tmp_path / "a/half.png", np.full((4, 4), 2048, np.uint16))
    save(tmp_path / "b/dark.tif", np.full((4, 4), 100, np.int32))
    save(tmp_path / "b/grey.tif", np.full((4, 4), 0.5, np.float32))
    save(tmp_path / "b/plain.png", np.full((4, 4), 9, np.uint8))
    read = read_image_folder(str(tmp_path), 2)
    assert read.images.reshape(5, -1).max(1).tolist() == [255, 128, 6, 128, 9]
    assert read.facts == {
        "bit_depth": {
            "integers": {"images": 3, "became_0_and_255": [0, 4095]},
            "floats": {"images": 1, "became_0_and_255": [0, 1]},
        }
    }


def test_predictions_follow_the_rule_of_the_training_images(tmp_path: Path) -> None:
    """A file given to a run is brought to 8 bits by the range found in training; one beyond it is refused."""
    for name in "ab":
        for index in range(8):
            save(tmp_path / f"data/{name}/{index}.png", np.full((4, 4), 511 * index, np.uint16))
    data = ImageData(folder=str(tmp_path / "data"), size=4, validation_fraction=0.2).build()
    assert data.summary["bit_depth"]["integers"] == {"images": 16, "became_0_and_255": [0, 4095]}
    encoded = data.encode([save(tmp_path / "one.png", np.full((4, 4), 4095, np.uint16))]).arrays["inputs"]
    assert (encoded == 255).all()
    with pytest.raises(UserError, match=r"one.png has integers from 5000 to 5000, where 0 to 4095 were expected"):
        data.encode([save(tmp_path / "one.png", np.full((4, 4), 5000, np.uint16))])


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            np.array([[-1024, 3071]], np.int32),
            r"integers from -1024 to 3071, where 0 to 4095 were expected.*--data.window",
        ),
        (np.array([[0, 255]], np.float32), r"numbers from 0 to 255, where 0 to 1 were expected.*--data.window"),
        (np.array([[-0.1, 1]], np.float32), r"numbers from -0.1 to 1"),
        (np.array([[0, np.nan]], np.float32), r"a.tif has pixels that are no numbers \(NaN or infinite\)"),
        (np.array([[0, np.inf]], np.float32), "no numbers"),
    ],
)
def test_values_without_a_meaning_are_refused(values: np.ndarray, problem: str, tmp_path: Path) -> None:
    """Below 0, beyond 1, and no numbers: the file, the range found, and what to do."""
    save(tmp_path / "cat/a.tif", values)
    with pytest.raises(UserError, match=problem):
        read_image_folder(str(tmp_path), 2)


def test_a_window_is_obeyed(tmp_path: Path) -> None:
    """As for computed tomography: what lies beyond is cut off, in training and prediction."""
    file = save(tmp_path / "cat/a.tif", np.array([[-1024, -160], [40, 3071]], np.int32))
    assert read_image_folder(str(tmp_path), 2, (-160.0, 240.0)).images[0, ..., 0].tolist() == [[0, 0], [128, 255]]
    assert read_image(file, (2, 2, 1), Ranges((-160.0, 240.0), (-160.0, 240.0), cut=True)).ravel().tolist() == [
        0,
        0,
        128,
        255,
    ]
    for window in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(UserError, match=r"is no range: give --data.window LOW HIGH"):
            read_image_folder(str(tmp_path), 2, window)


def test_zero_may_be_white(tmp_path: Path) -> None:
    """As in many X-ray images: TIFF says so in its tag 262."""
    file = save(tmp_path / "cat/a.tif", GREYS * np.uint16(257))
    black, white = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert file.read_bytes().count(black) == 1
    file.write_bytes(file.read_bytes().replace(black, white))
    np.testing.assert_array_equal(read_image(file, (16, 16, 1))[..., 0], 255 - GREYS)


def test_transparent_pixels_of_sixteen_bits_are_refused(tmp_path: Path) -> None:
    """Their hidden value has no place in a range."""
    file = save(tmp_path / "a.png", GREYS * np.uint16(257), transparency=0)
    with pytest.raises(UserError, match=r"a.png has one channel of more than 8 bits and transparent pixels: convert"):
        read_image(file, (16, 16, 3))


def deep_png(path: Path, kind: int, values: np.ndarray) -> Path:
    """Writes a PNG of 16 bits a channel; kind 2 has colours, 4 grey and opacity, 6 both (PNG specification, 11.2.1)."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND")
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_sixteen_bits_keep_the_upper_eight(kind: int, channels: int, tmp_path: Path) -> None:
    """Colours, and grey with opacity: Pillow reads them so."""
    values = np.full((2, 2, channels), 65535, np.uint16)
    values[..., 0] = 0x1234
    assert (read_image(deep_png(tmp_path / "a.png", kind, values), (2, 2, 3))[..., 0] == 0x12).all()


def test_nearly_black_images_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One pixel far above the others, or colours of 12 bits in 16: a line names the option."""
    values = np.full((64, 64), 3000, np.uint16)
    save(tmp_path / "one/cat/a.png", values)
    read_image_folder(str(tmp_path / "one"), 64)
    assert capsys.readouterr().err == ""
    values[0, 0] = 65535
    save(tmp_path / "one/cat/a.png", values)
    read_image_folder(str(tmp_path / "one"), 64)
    assert "1 images of more than 8 bits are nearly black; say which values" in capsys.readouterr().err
    read_image_folder(str(tmp_path / "one"), 64, (0.0, 4095.0))
    assert capsys.readouterr().err == ""
    deep_png(tmp_path / "two/cat/a.png", 2, np.full((8, 8, 3), 4095, np.uint16))
    read_image_folder(str(tmp_path / "two"), 8)
    assert "nearly black" in capsys.readouterr().err
