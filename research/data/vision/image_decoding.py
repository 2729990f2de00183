"""The one place where the bytes of an image file are decoded: by its content, within limits, whatever its metadata say.

`decode_file` and `decode` return the first image of a file, upright, in plain colours or in one channel of more than 8
bits, and refuse everything else with one sentence that names the file. `image_files` scales what they return.
"""

import io
import os
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from research.core.errors import UserError

# Those that photographs, scans and data sets come in; none starts another program or refers to other files.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 110_000_000  # of a file: phones take 108 million, and some decoders need 16 bytes for each
MAX_SIDE = 65_535  # pixels, as in JPEG; Pillow's time for very long rows grows with the square of their length
MAX_BYTES = 2**31  # of a file
WHITE_IS = 262  # the tag of TIFF that says whether 0 is white: 0 for yes
TURNS = {  # by the orientation of EXIF, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Decoded(NamedTuple):
    """The first image of a file."""

    image: Image.Image
    """upright; of mode L, RGB, RGBA, or one of those that `bit_depth.deep` takes"""
    several: bool
    """the file holds more images"""
    halved: bool
    """of 16 bits a channel, of which Pillow has kept the upper eight: colour, or grey with opacity"""
    inverted: bool
    """of more than 8 bits, and 0 is white"""


def check_file(path: Path) -> None:
    """Raises UserError where a path is no file that can be read to its end, before it is opened."""
    try:
        os.fsencode(path).decode()
        found = path.stat()
    except UnicodeDecodeError:
        raise UserError(f"{os.fsencode(path)!r} is not named in UTF-8: rename it.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', error)}); check its name.") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise UserError(f"{path} is {what}, not a file: name a file with an image, or remove it.")
    if not found.st_size:
        raise UserError(f"{path} is empty; replace or remove it.")
    if found.st_size > MAX_BYTES:
        raise UserError(f"{path} has {found.st_size:,} bytes, above the limit of {MAX_BYTES:,}: make it smaller.")


def decode_file(path: Path) -> Decoded:
    """As `decode`; raises UserError also where the file cannot be read."""
    check_file(path)
    try:
        with open(path, "rb") as file:
            return decode(file, str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None


def decode(file: io.BufferedReader | io.BytesIO, name: str) -> Decoded:
    """Decodes the first image of a file; a name for messages.

    Raises:
        UserError: the file is none of the formats, is damaged, or has more pixels than the limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about metadata, which does not matter, and sizes
            image = Image.open(file, formats=FORMATS)
            _check_pixels(image.size, name)
            halved = any(";16" in str(tile) for tile in image.tile)
            inverted = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(WHITE_IS) == 0
            image.load()
            _check_pixels(image.size, name)
            turned = _upright(image)
            plain = turned if is_deep(turned) else _with_plain_colours(turned)
            return Decoded(plain, _several(image), halved and not is_deep(plain), inverted and is_deep(plain))
    except UserError:
        raise
    except UnidentifiedImageError:
        problem = f"its content is none of {', '.join(FORMATS)}, or its beginning is damaged"
    except Image.DecompressionBombError:
        problem = f"it has more than {MAX_PIXELS:,} pixels"
    except Exception as error:  # Pillow's decoders raise exceptions of any kind for damaged files
        problem = str(error).partition("\n")[0] or type(error).__name__
    raise UserError(f"{name} cannot be decoded as an image ({problem}); replace or remove it.")


def _check_pixels(size: tuple[int, int], name: str) -> None:
    if not (min(size) > 0 and max(size) <= MAX_SIDE and size[0] * size[1] <= MAX_PIXELS):
        raise UserError(
            f"{name} has {size[0]} x {size[1]} pixels, and may have {MAX_PIXELS:,}, and {MAX_SIDE:,} on a side: "
            "make it smaller, or remove it."
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image as its metadata say; metadata that cannot be read say nothing."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's readers of metadata raise exceptions of any kind, and the pixels may be good
        turn = None
    return image if turn is None else image.transpose(turn)


def _several(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second image may be damaged, and is not read
        return False


def is_deep(image: Image.Image) -> bool:
    """Whether an image has one channel of more than 8 bits: of 16 or 32, or floating-point numbers."""
    return image.mode == "F" or image.mode.startswith("I")


def _with_plain_colours(image: Image.Image) -> Image.Image:
    """Returns an image as L, RGB or RGBA; palettes are looked up, CMYK and LAB become RGB."""
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
