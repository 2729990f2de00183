"""Jane Austen's six novels, one record a chapter, in the order of publication and of reading.

The text is cut, never edited: the records of a book, joined, are the file beside this builder. Loaded by
`research.data.catalogue.load("austen")`; `README.md` gives source and licence.
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

RAW = Path(__file__).parent / "raw"
BOOKS = {
    "Sense and Sensibility": "sensesensibility",
    "Pride and Prejudice": "prideprejudice",
    "Mansfield Park": "mansfieldpark",
    "Emma": "emma",
    "Northanger Abbey": "northangerabbey",
    "Persuasion": "persuasion",
}
# A volume's title belongs to the chapter it opens, so it is part of the heading.
HEADING = re.compile(r"^(?:VOLUME [IVX]+\s+)?(?:CHAPTER|Chapter) (?:[IVXLC]+|\d+)$", re.MULTILINE)


def read_book(stem: str) -> str:
    """Returns the text of one novel's file."""
    with gzip.open(RAW / f"{stem}.txt.gz", "rt", encoding="utf-8", newline="") as file:
        return file.read()


def split_chapters(text: str) -> list[tuple[str, str]]:
    """Cuts a novel at its chapter headings.

    Returns:
        (heading, text) of each chapter in order. A text begins with its heading and ends where the next begins; the
        first also holds the title page, the last all that follows, so that the texts joined are the whole novel.
    """
    headings = list(HEADING.finditer(text))
    starts = [0] + [heading.start() for heading in headings[1:]]
    ends = [*starts[1:], len(text)]
    return [
        (" ".join(heading.group().split()), text[start:end])
        for heading, start, end in zip(headings, starts, ends, strict=True)
    ]


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the data set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "book": tfds.features.Text(doc="Title of the novel."),
                    "chapter": tfds.features.Scalar(np.int32, doc="Place in the novel from 1, across volumes."),
                    "heading": tfds.features.Text(doc="As printed, with the volume where one begins."),
                    "text": tfds.features.Text(),
                }
            ),
            homepage="https://packages.debian.org/r-cran-janeaustenr",
            license="Text: public domain. Packaging: MIT.",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        for book, stem in BOOKS.items():
            for number, (heading, text) in enumerate(split_chapters(read_book(stem)), start=1):
                yield key, {"book": book, "chapter": number, "heading": heading, "text": text}
                key += 1
