"""Fashion-MNIST: grey pictures of clothes, 28 x 28, ten classes.

`fashion_mnist/mini` is embedded (made by `make_mini.py`); `fashion_mnist/full` is read from the folder that
ONTOGENY_FASHION_MNIST names, else from Debian's package dataset-fashion-mnist, else downloaded. Loaded by
`research.data.catalogue.load("fashion_mnist/mini")`; `README.md` gives source and licence.
"""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from research.core.errors import UserError
from research.data.datasets.fashion_mnist.idx_files import FULL_SHA256, PREFIXES, file_names, parse_idx, read_full

RAW = Path(__file__).parent / "raw"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FOLDER_VARIABLE = "ONTOGENY_FASHION_MNIST"
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def find_full(dl_manager: tfds.download.DownloadManager) -> dict[str, bytes]:
    """Returns the complete data set from the first place that has it; raises UserError where none has."""
    if FOLDER_VARIABLE in os.environ:
        return read_full(Path(os.environ[FOLDER_VARIABLE]))
    if DEBIAN_FOLDER.is_dir():
        return read_full(DEBIAN_FOLDER)
    try:
        paths = dl_manager.download({name: URL + name for name in FULL_SHA256})
    except (OSError, tfds.download.DownloadError, NonMatchingChecksumError) as error:
        raise UserError(
            f"Fashion-MNIST could not be downloaded ({type(error).__name__}): install the Debian package "
            f"dataset-fashion-mnist, set {FOLDER_VARIABLE} to a folder with its four files, or use fashion_mnist/mini."
        ) from None
    return {name: gzip.decompress(Path(path).read_bytes()) for name, path in paths.items()}


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the data set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="mini", description="10,000 + 2,000 pictures, embedded."),
        tfds.core.BuilderConfig(name="full", description="60,000 + 10,000 pictures."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8, encoding="bytes"),
                    "label": tfds.features.ClassLabel(names=LABELS),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            license="MIT, (c) 2017 Zalando SE",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        if self.builder_config.name == "mini":
            contents = {path.name: gzip.decompress(path.read_bytes()) for path in RAW.glob("*.gz")}
        else:
            contents = find_full(dl_manager)
        return {
            split: self._generate_examples(*(parse_idx(contents[name]) for name in file_names(prefix)))
            for split, prefix in PREFIXES.items()
        }

    def _generate_examples(
        self, images: UInt8[np.ndarray, "examples 28 28"], labels: UInt8[np.ndarray, "examples"]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": image[..., np.newaxis], "label": int(label)}
