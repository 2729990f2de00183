"""Damaged pictures of every format: an image or one sentence, in bounded time and memory."""

import io
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from mutate import mutations
from PIL import Image

from research.core.errors import UserError
from research.data.vision.image_decoding import FORMATS
from research.data.vision.image_files import read_image

EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 24, 4)).astype(np.uint8)
COLOUR = Image.fromarray(PIXELS).convert("RGB")
GREY_16 = Image.fromarray(PIXELS[..., :2].copy().view(np.uint16)[..., 0])
FRAMES = {"save_all": True, "append_images": [COLOUR.rotate(90)]}
PICTURES = {
    "PNG": [(COLOUR, {"exif": EXIF}), (GREY_16, {}), (COLOUR.convert("P"), {"transparency": 3}), (COLOUR, FRAMES)],
    "JPEG": [(COLOUR, {"exif": EXIF}), (COLOUR.convert("CMYK"), {"progressive": True})],
    "GIF": [(COLOUR.convert("P"), {"transparency": 3}), (COLOUR, FRAMES)],
    "BMP": [(COLOUR, {}), (COLOUR.convert("P"), {})],
    "WEBP": [(Image.fromarray(PIXELS), {"lossless": True, "exif": EXIF}), (COLOUR, FRAMES)],
    "TIFF": [
        *((COLOUR, {"compression": kind}) for kind in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        (GREY_16, {}),
        (Image.fromarray(PIXELS[..., 0] / np.float32(255)), {}),
        (COLOUR, FRAMES),
        (COLOUR.convert("1"), {"compression": "group4"}),
    ],
    "PPM": [(COLOUR, {}), (GREY_16, {})],
    "JPEG2000": [(COLOUR, {}), (GREY_16, {})],
    "AVIF": [(COLOUR, {"speed": 10, "exif": EXIF})],
}
MUTATIONS = 2000  # of each format
SECONDS, BYTES = 20, 2 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_picture_is_an_image_or_one_sentence(format: str, tmp_path: Path) -> None:
    """Flipped bits, parts cut, repeated or put in, numbers at their limits: no other error, no hang, little memory."""
    path, pictures = tmp_path / "damaged.png", PICTURES[format]  # the content decides, not the name
    before, read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for seed, (picture, options) in enumerate(pictures):
        file = io.BytesIO()
        picture.save(file, format, **options)
        for mutated in mutations(file.getvalue(), MUTATIONS // len(pictures), seed):
            path.write_bytes(mutated)
            began = time.perf_counter()
            try:
                image = read_image(path, (8, 8, 3))
                assert image.shape == (8, 8, 3) and image.dtype == np.uint8
                read += 1
            except UserError as error:
                assert "damaged.png" in str(error) and "\n" not in str(error)
            assert time.perf_counter() - began < SECONDS
    assert 0 < read < MUTATIONS  # some of each are still images, some are not
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < BYTES / 1024
