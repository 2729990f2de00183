"""Census records of 1994 and whether the person earned over $50,000 a year, one record a person.

Train and test are UCI's. Continuous columns are numbers, categorical ones text, `?` where the answer is missing.
Loaded by `research.data.catalogue.load("adult")`; `README.md` gives source and licence.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

RAW = Path(__file__).parent / "raw"
COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
)
CONTINUOUS = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
LABELS = ("<=50K", ">50K")


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the data set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        columns = {
            name: tfds.features.Scalar(np.float32) if name in CONTINUOUS else tfds.features.Text() for name in COLUMNS
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({**columns, "label": tfds.features.ClassLabel(names=LABELS)}),
            homepage="https://archive.ics.uci.edu/dataset/2/adult",
            license="CC-BY-4.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {
            "train": self._generate_examples(RAW / "adult.data.gz"),
            "test": self._generate_examples(RAW / "adult.test.gz"),
        }

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            # UCI's test file opens with a comment, ends its labels in a full stop, and both end in an empty line.
            rows = [line.strip().removesuffix(".").split(", ") for line in file if line.strip() and line[0] != "|"]
        for key, row in enumerate(rows):
            values = dict(zip((*COLUMNS, "label"), row, strict=True))
            yield key, {name: float(value) if name in CONTINUOUS else value for name, value in values.items()}
