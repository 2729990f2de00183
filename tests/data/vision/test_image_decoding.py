"""Files of images are decoded by their content, within limits, whatever their metadata say, or refused by name."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from research.core.errors import UserError
from research.data.vision.image_decoding import check_file, decode, decode_file

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
SIX = (0x112, 3, 1, struct.pack("<HH", 6, 0))  # the entry of EXIF that asks for a quarter turn clockwise


def exif(*entries: tuple[int, int, int, bytes], order: str = "<", after: bytes = b"") -> bytes:
    """Returns the block of EXIF with these entries: tag, type, number of values, values or their offset."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0" + head + body + bytes(4) + after


def saved(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(io.BytesIO(data), "a file").image)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_a_valid_orientation_is_obeyed(format: str, order: str) -> None:
    """Each of the eight, as the standard has them (CIPA DC-008, 4.6.5), in both orders of bytes, also as a long."""
    quarter = np.rot90(PIXELS, -1)
    upright = {1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 6: quarter}
    upright |= {5: quarter[:, ::-1], 7: quarter[::-1], 8: quarter[::-1, ::-1]}
    exact = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    for number, expected in upright.items():
        value = struct.pack(order + "HH", number, 0) if number % 2 else struct.pack(order + "I", number)
        entry = (0x112, 3 if number % 2 else 4, 1, value)
        found = decoded(saved(format, exif=exif(entry, order=order), **exact[format]))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.astype(int), expected, atol=4 if format == "AVIF" else 0)


OFFSET = struct.pack("<I", 38)  # of what follows two entries
ODD = {
    "resolution of 0/0": [(0x11A, 5, 1, OFFSET)],
    "resolution of two values": [(0x11A, 5, 2, OFFSET)],
    "resolution as a short": [(0x11A, 3, 1, struct.pack("<HH", 72, 0))],
    "artist in Latin-1": [(0x13B, 2, 4, b"Jos\xe9")],
    "maker as NaN": [(0x10F, 11, 1, struct.pack("<f", float("nan")))],
    "software as bytes": [(0x131, 7, 3, b"ab\0\0")],
    "date as a number": [(0x132, 4, 1, struct.pack("<I", 7))],
    "width of 2^32 - 1": [(0x100, 4, 1, struct.pack("<I", 2**32 - 1))],
    "value beyond the end": [(0x10F, 2, 5000, struct.pack("<I", 99_999))],
    "folder beyond the end": [(0x8769, 4, 1, struct.pack("<I", 2**31 - 1))],
    "folder as text": [(0x8769, 2, 4, b"abc\0")],
    "position of nine values": [(0x8825, 4, 9, OFFSET)],
    "unknown tag of an unknown type": [(0xC4A5, 99, 1, OFFSET)],
    "coefficients cut short": [(0x211, 3, 3, OFFSET)],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_metadata_beside_an_orientation_do_not_matter(name: str) -> None:
    """The pixels are read, and turned as the orientation says; nothing is printed or warned of."""
    block = exif(SIX, *ODD[name], after=bytes(8))
    np.testing.assert_array_equal(decoded(saved("PNG", exif=block)), np.rot90(PIXELS, -1))
    assert decoded(saved("JPEG", exif=block)).shape == (12, 8, 3)


@given(st.binary(max_size=60), st.booleans())
def test_metadata_of_any_bytes_do_not_matter(noise: bytes, header: bool) -> None:
    """Random bytes for EXIF: the pixels are there, at most turned."""
    found = decoded(saved("PNG", exif=b"Exif\0\0" + (b"II*\0\x08\0\0\0" if header else b"") + noise))
    assert sorted(found.ravel()) == sorted(PIXELS.ravel())


@pytest.mark.parametrize(
    "entry",
    [
        (0x112, 2, 2, b"6\0\0\0"),
        (0x112, 3, 1, struct.pack("<HH", 99, 0)),
        (0x112, 3, 0, bytes(4)),
        (0x112, 5, 1, struct.pack("<I", 26)),
        (0x112, 7, 2, b"\x06\0\0\0"),
        (0x112, 77, 1, struct.pack("<HH", 6, 0)),
    ],
)
def test_an_orientation_that_is_none_is_ignored(entry: tuple[int, int, int, bytes]) -> None:
    """Text, no value, a number that is none of the eight, 1/0, bytes, an unknown type."""
    block = exif(entry, after=struct.pack("<II", 1, 0))
    np.testing.assert_array_equal(decoded(saved("PNG", exif=block)), PIXELS)


@pytest.mark.parametrize(
    "data",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", b"%PDF-1.4\n%%EOF", b"\x89HDF\r\n\x1a\n", b"hello"],
)
def test_content_of_another_kind_is_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the name says; and no other program is started, as Pillow does for PostScript."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    (tmp_path / "z.png").write_bytes(data)
    with pytest.raises(UserError, match=r"z.png cannot be decoded as an image \(its content is none of PNG, JPEG"):
        decode_file(tmp_path / "z.png")
    assert not (tmp_path / "started").exists()


def test_a_name_that_does_not_fit_the_content_does_not_matter(tmp_path: Path) -> None:
    """A GIF named .jpg."""
    (tmp_path / "a.jpg").write_bytes(saved("GIF"))
    assert decode_file(tmp_path / "a.jpg").image.size == (12, 8)


def empty_png(width: int, height: int) -> bytes:
    """Returns the beginning of a PNG of this size, without pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (12_000, 12_000), (100_000, 1), (1, 70_000)])
def test_an_image_above_the_limits_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    """By its number of pixels and by its longer side; a phone's 108 million pixels are decoded."""
    with pytest.raises(UserError, match=r"a file (has|cannot).* pixels"):
        decode(io.BytesIO(empty_png(width, height)), "a file")
    with pytest.raises(UserError, match="truncated"):
        decode(io.BytesIO(empty_png(12_000, 9_000)), "a file")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe and a device would never end; a folder, a loop, an empty file and a missing one have nothing to read."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**40)  # of holes
    for name, problem in (
        ("pipe.png", "is a pipe or device"),
        ("zero.png", "is a pipe or device"),
        ("loop.png", "cannot be read"),
        ("folder.png", "is a folder"),
        ("empty.png", "is empty"),
        ("huge.png", "1,099,511,627,776 bytes, above the limit"),
        ("none.png", "No such file"),
        ("a\0b.png", "cannot be read"),
        ("a" * 300, "name too long"),
        (os.fsdecode(b"\xff.png"), "not named in UTF-8"),
    ):
        with pytest.raises(UserError, match=problem):
            check_file(tmp_path / name)


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF"])
def test_the_first_of_several_images_is_read(format: str) -> None:
    """Of animations and pages, and that there are several is known."""
    one, two = (Image.new("RGB", (6, 4), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    for others in ([], [two]):
        file = io.BytesIO()
        one.save(file, format, save_all=True, append_images=others)
        found = decode(io.BytesIO(file.getvalue()), "a file")
        assert np.abs(np.asarray(found.image.convert("RGB")).astype(int) - [250, 0, 0]).max() < 8
        assert found.several == bool(others)
