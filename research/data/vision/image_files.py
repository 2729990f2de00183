"""Images from files: single ones, and folders with a sub-folder for each class.

Each reader returns arrays of 8 bits a channel, and refuses what it cannot read with a sentence that names file and
remedy. Of an animation or a file of several pages the first image is read; transparent pixels are seen on a white
background; colour profiles are not applied. `images` makes a data set of what these readers return, `image_decoding`
decodes the files, and `bit_depth` brings images of more than 8 bits to 8.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageOps

from research.core.errors import UserError
from research.data.vision import bit_depth
from research.data.vision.image_decoding import check_file, decode_file, is_deep

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of an image's colours, by its channels
MAX_SIZE = 8192  # of an image in a data set
SUFFIXES = tuple(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm .pfm .jp2 .j2k .avif".split()
)
WHITE = (255, 255, 255, 255)


class ImageFolder(NamedTuple):
    """What `read_image_folder` returns."""

    images: UInt8[np.ndarray, "images size size 3"]
    labels: Int32[np.ndarray, " images"]
    """positions in the class names"""
    class_names: tuple[str, ...]
    """in order"""
    names: tuple[str, ...]
    """each image's path in the folder"""
    ranges: bit_depth.Ranges
    """which values of images of more than 8 bits became 0 and 255"""
    facts: dict[str, Any]
    """JSON values for the record: what was done to images of more than 8 bits, and files that hold several images"""


def read_image_folder(folder: str, size: int, window: bit_depth.Range | None = None) -> ImageFolder:
    """Reads a folder of images with one sub-folder per class.

    Args:
        folder: holds a folder for each class; hidden files and folders are passed over, and so are files that are not
            named as images, whose number is printed.
        size: height and width in pixels; images are scaled and cropped at the centre, with their shape kept.
        window: the values that become 0 and 255 in images of more than 8 bits a channel.

    Raises:
        UserError: the folder or a class is missing or empty, an image cannot be decoded, or memory does not suffice.
    """
    bit_depth.check_window(window)
    root = Path(folder)
    classes = _class_names(root)
    passed_over: Counter[str] = Counter()
    paths = [_image_paths(root / name, passed_over) for name in classes]
    if passed_over:
        print(f"{folder}: passed over files that are not named as images: {_listed(passed_over)}", file=sys.stderr)
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(found) for found in paths])
    every = [path for found in paths for path in found]
    images, ranges, facts = _read_all(every, size, window, folder)
    names = tuple(path.relative_to(root).as_posix() for path in every)
    return ImageFolder(images, labels, tuple(classes), names, ranges, facts)


def _class_names(root: Path) -> list[str]:
    try:
        if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir fails for names that are too long)
            raise UserError(f"There is no folder {root}; give one that holds a sub-folder of images for each class.")
        classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror}); check its permissions.") from None
    if not classes:
        raise UserError(f"{root} has no sub-folders; put the images of each class into a sub-folder named after it.")
    return classes


def _image_paths(folder: Path, passed_over: Counter[str]) -> list[Path]:
    """Returns the images of a class in order; counts the suffixes of other files."""
    found, others = [], Counter[str]()
    try:
        for place, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            others.update("link to a folder" for name in folders if Path(place, name).is_symlink())  # may be a loop
            for path in (Path(place, name) for name in files if not name.startswith(".")):
                if path.suffix.lower() in SUFFIXES:
                    check_file(path)
                    found.append(path)
                else:
                    others[path.suffix.lower()] += 1
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); check its permissions.") from None
    if not found:
        instead = f" but other files ({_listed(others)})" if others else ""
        raise UserError(f"{folder} has no images{instead}; add some (.png, .jpg, ...) or remove the sub-folder.")
    passed_over.update(others)
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _listed(suffixes: Counter[str]) -> str:
    kinds = ", ".join(
        f"{suffix!r} {count}" for suffix, count in sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))[:5]
    )
    return kinds + (", ..." if len(suffixes) > 5 else "")


def _read_all(
    paths: Sequence[Path], size: int, window: bit_depth.Range | None, folder: str
) -> tuple[UInt8[np.ndarray, "images size size 3"], bit_depth.Ranges, dict[str, Any]]:
    """Reads images; what is deeper than 8 bits is brought to 8 when the values of all are known."""
    _check_sizes(len(paths), size)
    images = np.empty((len(paths), size, size, 3), np.uint8)
    deep: dict[int, bit_depth.Deep] = {}
    halved, several = [], 0
    for index, path in enumerate(paths):
        decoded = decode_file(path)
        several += decoded.several
        if is_deep(decoded.image):
            deep[index] = bit_depth.deep(str(path), decoded.image, (size, size), decoded.inverted)
        else:
            images[index] = fit_image(decoded.image, (size, size, 3))
            halved += [index] if decoded.halved else []
    ranges = bit_depth.ranges_of(list(deep.values()), window)
    for index, image in deep.items():
        images[index] = bit_depth.to_8_bits(image, ranges)[..., None]
    if window is None and bit_depth.are_dark(images[index] for index in [*deep, *halved]):
        print(
            f"{folder}: the {len(deep) + len(halved)} images of more than 8 bits are nearly black; say which values "
            "become black and white with --data.window LOW HIGH, and convert those in colour to 8 bits",
            file=sys.stderr,
        )
    if several:
        print(f"{folder}: of {several} files with several images the first one is read", file=sys.stderr)
    facts = {"bit_depth": bit_depth.facts(list(deep.values()), ranges), "first_of_several": several}
    return images, ranges, {name: value for name, value in facts.items() if value}


def _check_sizes(count: int, size: int) -> None:
    if not 1 <= size <= MAX_SIZE:
        raise UserError(f"Images of {size} x {size} pixels are asked for: give --data.size from 1 to {MAX_SIZE}.")
    needed, memory = 3 * count * size * size * 3, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:  # the images, those of each split, and the sums of their squares
        raise UserError(
            f"{count} images of {size} x {size} pixels need {needed / 1e9:.0f} GB of memory, and {memory / 1e9:.0f} GB "
            "are here: give a smaller --data.size, or fewer images."
        )


def read_image(
    path: Path, shape: tuple[int, int, int], ranges: bit_depth.Ranges = bit_depth.Ranges()
) -> UInt8[np.ndarray, "height width channels"]:
    """Reads an image, upright, and brings it to a shape as `fit_image` does, and to 8 bits by the ranges of a data set.

    Raises:
        UserError: the file is missing or cannot be decoded.
    """
    decoded = decode_file(path)
    if not is_deep(decoded.image):
        return fit_image(decoded.image, shape)
    deep = bit_depth.deep(str(path), decoded.image, (shape[1], shape[0]), decoded.inverted)
    grey = bit_depth.to_8_bits(deep, ranges)
    return fit_image(Image.fromarray(grey), shape)


def fit_image(image: Image.Image, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "height width channels"]:
    """Scales an image and crops it at the centre; channels: 1 (grey), 3 (red, green, blue) or 4 (and opacity).

    Where the shape has no opacity, transparent pixels are seen on white: the colours that they hide do not appear.

    >>> hidden = Image.new("RGBA", (2, 2), (9, 9, 9, 0))
    >>> fit_image(hidden, (1, 1, 3)).tolist()
    [[[255, 255, 255]]]
    """
    height, width, channels = shape
    seen_through = channels != 4 and image.has_transparency_data
    mode = "RGBA" if seen_through else MODES[channels]
    converted = image if image.mode == mode else image.convert(mode)
    # Pillow weights the colours of RGBA by their opacity, so that hidden ones do not bleed into their neighbours.
    fitted = ImageOps.fit(converted, (width, height), Image.Resampling.BILINEAR)
    if seen_through:
        fitted = Image.alpha_composite(Image.new("RGBA", fitted.size, WHITE), fitted).convert(MODES[channels])
    return np.asarray(fitted).reshape(shape)
