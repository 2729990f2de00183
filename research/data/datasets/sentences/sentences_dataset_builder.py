"""English sentences with the sentiment that people gave them, one record a sentence.

Film reviews, product reviews, newspaper editorials and tweets; split by `document`. Loaded by
`research.data.catalogue.load("sentences")`; `README.md` gives source and licence.
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
                    "domain": tfds.features.Text(doc="The collection a sentence comes from."),
                    "document": tfds.features.Text(doc="Key of the text a sentence belongs to, unique across domains."),
                    "id": tfds.features.Text(doc="As in the source: document_sentence, or document alone."),
                    "score": tfds.features.Scalar(np.float32, doc="Mean human rating, -4 (worst) to 4 (best)."),
                    "text": tfds.features.Text(),
                }
            ),
            supervised_keys=("text", "score"),
            homepage="https://github.com/cjhutto/vaderSentiment",
            license="MIT",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with gzip.open(RAW / "sentences.tsv.gz", "rt", encoding="utf-8", newline="\n") as file:
            next(file)
            for key, line in enumerate(file):
                domain, identity, score, text = line.rstrip("\n").split("\t")
                document = f"{domain}/{identity.split('_')[0]}"
                yield key, {"domain": domain, "document": document, "id": identity, "score": float(score), "text": text}
