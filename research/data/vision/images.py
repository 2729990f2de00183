"""Images with one label each, from a data set of the catalogue or from a folder with a sub-folder per class."""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image

from research.core.errors import UserError, listed
from research.core.ranges import Below1, Finite, Range
from research.data import catalogue
from research.data.dataset import Data, Rows
from research.data.splitting import split_of
from research.data.vision import image_files
from research.data.vision.bit_depth import Ranges


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Which images; they stay uint8 [height width channels] until the task standardises them on the device."""

    dataset: str = "fashion_mnist/mini"
    """a data set of the catalogue; not read where a folder is given"""
    folder: str = ""
    """your own images: a folder with a sub-folder for each class"""
    size: Annotated[int, Range(1, 8192)] = 64
    """height and width that the images of a folder are brought to"""
    window: tuple[Finite, Finite] | None = None
    """lowest and highest value of images of a folder of more than 8 bits a channel, which become black and white; by
    default 0 and the largest number of the bits in use in the data set, and of floating-point numbers 0 and 1"""
    image: str = "image"
    """the field that holds the image"""
    label: str = "label"
    """the field that holds the class"""
    validation_fraction: Below1 = 0.1
    """fraction of the training images held out, by a hash of their name or place"""

    def build(self) -> Data:
        """Reads and splits; raises UserError for folders, fields and splits that cannot work."""
        ranges = Ranges()
        if self.folder:
            splits, class_names, facts, ranges = self._read_folder()
        else:
            splits, class_names, facts = self._read_dataset()
        empty = [name for name, rows in splits.items() if not len(rows)]
        if empty:
            raise UserError(f"The {empty[0]} split has no images: give more, or change --data.validation-fraction.")
        train = splits["train"].arrays["inputs"]
        # Sums of integers: exact in any order, and no copy of the images as floating-point numbers.
        mean = train.mean((0, 1, 2), dtype=np.float64)
        std = np.sqrt(np.square(train, dtype=np.uint16).mean((0, 1, 2), dtype=np.float64) - mean**2)
        facts["standardisation"] = {"mean": mean.tolist(), "std": std.tolist()}
        facts["class_names"] = list(class_names)
        facts["splits"] = {
            name: {
                "examples": len(rows),
                "classes": np.bincount(rows.arrays["labels"], minlength=len(class_names)).tolist(),
            }
            for name, rows in splits.items()
        }
        _say_absent(facts["splits"], class_names)
        encode = partial(_encode, shape=train.shape[1:], ranges=ranges)
        return Data(splits=splits, outputs=len(class_names), class_names=class_names, summary=facts, encode=encode)

    def _read_dataset(self) -> tuple[dict[str, Rows], tuple[str, ...], dict[str, Any]]:
        splits = {}
        facts = catalogue.info(self.dataset)
        if self.label not in facts["labels"]:
            raise UserError(
                f"The field {self.label!r} of {self.dataset!r} names no classes; those that do are "
                f"{', '.join(facts['labels']) or 'none'}: choose one with --data.label, or another data set."
            )
        for name, source in catalogue.load(self.dataset).items():
            missing = {self.image, self.label} - set(source[0])
            if missing:
                raise UserError(
                    f"The records of {self.dataset!r} have no field {min(missing)!r} but {', '.join(source[0])}: "
                    "name the right ones with --data.image and --data.label."
                )
            records = catalogue.read(source, range(len(source)))
            shapes = {np.shape(record[self.image]) for record in records}
            if len(shapes) > 1:
                raise UserError(
                    f"The images of {self.dataset!r} have {len(shapes)} shapes, such as {min(shapes)}: write them to "
                    "a folder with a sub-folder for each class and give --data.folder, which brings them to one size."
                )
            images = np.stack([record[self.image] for record in records])
            if images.dtype != np.uint8 or images.ndim != 4:
                raise UserError(
                    f"The field {self.image!r} of {self.dataset!r} holds {images.dtype} {list(images.shape[1:])}, not "
                    "uint8 [height width channels]: write the images to a folder with a sub-folder for each class and "
                    "give --data.folder, which brings them to 8 bits."
                )
            splits[name] = _rows(images, np.array([record[self.label] for record in records], np.int32))
        if "validation" not in splits and self.validation_fraction:
            keys = [f"{self.dataset}/train/{index}" for index in range(len(splits["train"]))]
            splits = {**self._divide(splits["train"], keys), **{n: r for n, r in splits.items() if n != "train"}}
        return splits, tuple(facts["labels"][self.label]), facts

    def _read_folder(self) -> tuple[dict[str, Rows], tuple[str, ...], dict[str, Any], Ranges]:
        read = image_files.read_image_folder(self.folder, self.size, self.window)
        digest = hashlib.sha256(read.images.tobytes() + read.labels.tobytes()).hexdigest()
        facts = {"name": self.folder, "digest": digest, **read.facts}
        return self._divide(_rows(read.images, read.labels), read.names), read.class_names, facts, read.ranges

    def _divide(self, rows: Rows, keys: Any) -> dict[str, Rows]:
        if not self.validation_fraction:
            return {"train": rows}
        fractions = {"train": 1 - self.validation_fraction, "validation": self.validation_fraction}
        sides = np.array([split_of(key, fractions) for key in keys])
        return {side: Rows(rows.gather(np.flatnonzero(sides == side))) for side in fractions}

    def small(self, folder: Path) -> "ImageData":
        """Returns the same of the first images of Fashion-MNIST, which are embedded."""
        return dataclasses.replace(self, dataset="fashion_mnist/mini", folder="", image="image", label="label")


def _rows(images: np.ndarray, labels: np.ndarray) -> Rows:
    return Rows({"inputs": images, "labels": labels})


def _say_absent(splits: Mapping[str, Any], class_names: Sequence[str]) -> None:
    """Says which classes a split has no image of: they count as never recognised in its macro averages."""
    for split, facts in splits.items():
        if absent := [name for name, count in zip(class_names, facts["classes"], strict=True) if not count]:
            print(
                f"the {split} split, of {facts['examples']} images, has none of {listed(absent)}: give more, or hold "
                "out more with --data.validation-fraction",
                file=sys.stderr,
            )


def _encode(raw: Sequence[Any], shape: tuple[int, int, int], ranges: Ranges) -> Rows:
    """Returns the rows of images given as arrays or as paths of files."""
    images = [_image(number, image, shape, ranges) for number, image in enumerate(raw, start=1)]
    return Rows({"inputs": np.stack(images)})


def _image(number: int, raw: Any, shape: tuple[int, int, int], ranges: Ranges) -> np.ndarray:
    """Returns an image [height width channels] of the shape and range of the training images."""
    if isinstance(raw, str | Path):
        if not os.path.exists(raw):  # noqa: PTH110 (Path.exists fails for names that are too long)
            raise UserError(f"These data are images, and input {number}, {str(raw)!r}, names no file: give an image.")
        return image_files.read_image(Path(raw), shape, ranges)
    if not isinstance(raw, np.ndarray) or raw.dtype != np.uint8 or raw.ndim not in (2, 3):
        found = f"{raw.dtype} {list(raw.shape)}" if isinstance(raw, np.ndarray) else type(raw).__name__
        raise UserError(
            f"These data are images, and input {number} is {found}: give a file, or an array uint8 "
            "[height width channels]."
        )
    if raw.shape in (shape, shape[:2] if shape[2] == 1 else shape):
        return raw.reshape(shape)
    if raw.ndim == 3 and raw.shape[2] not in image_files.MODES:
        raise UserError(f"The image {number} has {raw.shape[2]} channels: give 1 (grey), 3 (red, green, blue) or 4.")
    return image_files.fit_image(Image.fromarray(raw[..., 0] if raw.shape[2:] == (1,) else raw), shape)
