"""Emoji as small pictures with names and categories, one record a picture.

Pictures come decoded, 64 x 64 RGBA, so that reading them needs no image library. Loaded by
`research.data.catalogue.load("twemoji")`; `README.md` gives source and licence.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from research.data.vision.image_decoding import decode

RAW = Path(__file__).parent / "raw"
CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Component",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the data set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(64, 64, 4), dtype=np.uint8, encoding="zlib"),
                    "file": tfds.features.Text(doc="Code points in hexadecimal, such as '1f600.png'."),
                    "name": tfds.features.Text(),
                    "category": tfds.features.ClassLabel(names=CATEGORIES),
                    "subcategory": tfds.features.Text(),
                    "short_names": tfds.features.Text(doc="As typed between colons, separated by commas."),
                }
            ),
            supervised_keys=("image", "category"),
            homepage="https://github.com/iamcal/emoji-data",
            license="Pictures: CC-BY-4.0, Twitter, Inc. and contributors. Data: MIT.",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with (
            zipfile.ZipFile(RAW / "twemoji64.zip") as pictures,
            open(RAW / "twemoji.tsv", encoding="utf-8", newline="\n") as table,
        ):
            next(table)
            for key, line in enumerate(table):
                file, name, category, subcategory, short_names = line.rstrip("\n").split("\t")
                image = np.asarray(decode(io.BytesIO(pictures.read(file)), file).image.convert("RGBA"))
                yield (
                    key,
                    {
                        "image": image,
                        "file": file,
                        "name": name,
                        "category": category,
                        "subcategory": subcategory,
                        "short_names": short_names,
                    },
                )
