"""Images of more than 8 bits a channel, brought to 8 bits by one rule for all images of a data set.

Integers (16 or 32 bits) are scaled so that the largest number of the bits in use becomes 255: where no image of the
data set is above 4095, twelve bits are in use, and 4095 becomes 255. So the same value is the same grey in every image,
and a scan of 12 bits in a file of 16 is not nearly black. Floating-point numbers from 0 to 1 are multiplied by 255. A
window, LOW and HIGH, replaces both rules, and cuts off what lies beyond, as radiologists do; without one, values beyond
are refused. `image_files` reads the files; `images` notes the rule in the facts of the data.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from research.core.errors import UserError

Range = tuple[float, float]
DARK = 16


@dataclasses.dataclass(frozen=True)
class Ranges:
    """The values that become 0 and 255."""

    integers: Range = (0.0, 65535.0)
    floats: Range = (0.0, 1.0)
    cut: bool = False
    """values beyond become 0 and 255 too; otherwise they are refused"""


@dataclasses.dataclass(frozen=True)
class Deep:
    """An image of one channel of more than 8 bits, scaled to the size of the data set."""

    name: str
    values: Float32[np.ndarray, "height width"]
    lowest: float
    """of all pixels of the file"""
    highest: float
    integers: bool
    inverted: bool
    """0 is white"""


def deep(name: str, image: Image.Image, size: tuple[int, int], inverted: bool) -> Deep:
    """Scales an image of 16-bit or 32-bit numbers, and crops it at the centre.

    Args:
        name: of the file, for messages.
        image: of one of Pillow's modes I, I;16, I;16B, I;16L, I;16N and F.
        size: width and height.
        inverted: whether 0 is white.

    Raises:
        UserError: the image has transparent pixels, or values that are not numbers.
    """
    if "transparency" in image.info:
        raise UserError(f"{name} has one channel of more than 8 bits and transparent pixels: convert it to 8 bits.")
    values = np.asarray(image)
    lowest, highest = float(values.min()), float(values.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise UserError(f"{name} has pixels that are no numbers (NaN or infinite): replace them, or remove the file.")
    fitted = ImageOps.fit(Image.fromarray(values.astype(np.float32)), size, Image.Resampling.BILINEAR)
    return Deep(name, np.asarray(fitted), lowest, highest, values.dtype.kind in "iu", inverted)


def check_window(window: Range | None) -> None:
    """Raises UserError where a window is not two numbers, the lower one first."""
    if window is not None and not -math.inf < window[0] < window[1] < math.inf:
        raise UserError(f"The window {window[0]:g} {window[1]:g} is no range: give --data.window LOW HIGH.")


def ranges_of(images: Sequence[Deep], window: Range | None) -> Ranges:
    """Returns the ranges of a data set: the window, or 0 to the largest number of the bits in use, and 0 to 1.

    >>> scan = Deep("scan.png", np.zeros((1, 1), np.float32), 0.0, 3000.0, True, False)
    >>> ranges_of([scan], None).integers
    (0.0, 4095.0)
    """
    if window is not None:
        return Ranges(window, window, cut=True)
    integers = [int(image.highest) for image in images if image.integers]
    return Ranges((0.0, 2.0 ** max(8, max(integers).bit_length()) - 1)) if integers else Ranges()


def to_8_bits(image: Deep, ranges: Ranges) -> UInt8[np.ndarray, "height width"]:
    """Returns the image with the range of its kind at 0 to 255.

    Raises:
        UserError: the file has values beyond the range, and the ranges do not say that they are cut off.
    """
    low, high = ranges.integers if image.integers else ranges.floats
    if not ranges.cut and (image.lowest < low or image.highest > high):
        kind = "integers" if image.integers else "floating-point numbers"
        raise UserError(
            f"{image.name} has {kind} from {image.lowest:g} to {image.highest:g}, where {low:g} to {high:g} were "
            "expected: say which values become black and white with --data.window LOW HIGH."
        )
    scaled = np.rint(np.clip((image.values - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)
    return 255 - scaled if image.inverted else scaled


def facts(images: Sequence[Deep], ranges: Ranges) -> dict[str, Any]:
    """Returns what the record of a run says: how many images of which kind, and what became 0 and 255."""
    found = {}
    for kind, integers, values in (("integers", True, ranges.integers), ("floats", False, ranges.floats)):
        if count := sum(image.integers == integers for image in images):
            found[kind] = {"images": count, "became_0_and_255": list(values)}
    return found


def are_dark(images: Iterable[UInt8[np.ndarray, "height width 3"]]) -> bool:
    """Whether of all values of some images fewer than one in a thousand reach 16, so that four bits hold the rest."""
    counts = [(int((image >= DARK).sum()), image.size) for image in images]
    bright, values = map(sum, zip(*counts, strict=True)) if counts else (0, 0)
    return 1000 * bright < values
