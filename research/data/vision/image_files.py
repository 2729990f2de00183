"""Images from files: single ones, and folders with a sub-folder for each class.

Each reader returns arrays and refuses what it cannot read with one sentence that names the file and the remedy.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageOps

from research.core.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of an image's colours, by its channels


def read_image_folder(
    folder: str, size: int
) -> tuple[UInt8[np.ndarray, "images size size 3"], Int32[np.ndarray, " images"], tuple[str, ...], tuple[str, ...]]:
    """Reads a folder of images with one sub-folder per class.

    Args:
        folder: holds a folder for each class; hidden files and files that are not named as images are passed over.
        size: height and width in pixels; images are scaled and cropped at the centre, with their shape kept.

    Returns:
        RGB images, labels (positions in the class names), class names in order, and each image's path in the folder.

    Raises:
        UserError: the folder or a class is missing or empty, or an image cannot be decoded.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"There is no folder {folder}; give one that holds a sub-folder of images for each class.")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no sub-folders; put the images of each class into a sub-folder named after it.")
    suffixes = Image.registered_extensions()
    images, labels, names = [], [], []
    for label, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("[!.]*") if path.suffix.lower() in suffixes)
        if not found:
            raise UserError(f"{root / name} has no images; add some (.png, .jpg, ...) or remove the sub-folder.")
        for path in found:
            images.append(read_image(path, (size, size, 3)))
            labels.append(label)
            names.append(path.relative_to(root).as_posix())
    return np.stack(images), np.array(labels, dtype=np.int32), tuple(classes), tuple(names)


def read_image(path: Path, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "height width channels"]:
    """Reads an image, upright, and brings it to a shape as `fit_image` does.

    Raises:
        UserError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return fit_image(ImageOps.exif_transpose(image), shape)
    # Pillow's decoders raise all of these for damaged files, and DecompressionBombError for absurd dimensions.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be decoded as an image ({error}); replace or remove it.") from None


def fit_image(image: Image.Image, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "height width channels"]:
    """Scales an image and crops it at the centre; channels: 1 (grey), 3 (red, green, blue) or 4 (and opacity)."""
    height, width, channels = shape
    converted = image.convert(MODES[channels])
    return np.asarray(ImageOps.fit(converted, (width, height), Image.Resampling.BILINEAR)).reshape(shape)
