"""The Bible in English and Spanish, one record a verse, in canonical order.

Parallel text for translation: split it by `book`, never by random verse, since neighbours repeat each other. Loaded by
`research.data.catalogue.load("bible_en_es")`; `README.md` gives source and licence.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

RAW = Path(__file__).parent / "raw"


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the data set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "reference": tfds.features.Text(doc="Such as 'Genesis 1:1'."),
                    "book": tfds.features.Text(),
                    "chapter": tfds.features.Scalar(np.int32),
                    "verse": tfds.features.Scalar(np.int32),
                    "en": tfds.features.Text(doc="World English Bible."),
                    "es": tfds.features.Text(doc="Reina-Valera 1909."),
                }
            ),
            supervised_keys=("en", "es"),
            homepage="https://packages.debian.org/sword-text-web",
            license="Public domain, both translations.",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with gzip.open(RAW / "verses.tsv.gz", "rt", encoding="utf-8", newline="\n") as file:
            next(file)
            for key, line in enumerate(file):
                reference, english, spanish = line.rstrip("\n").split("\t")
                book, place = reference.rsplit(" ", 1)
                chapter, verse = place.split(":")
                yield (
                    key,
                    {
                        "reference": reference,
                        "book": book,
                        "chapter": int(chapter),
                        "verse": int(verse),
                        "en": english,
                        "es": spanish,
                    },
                )
