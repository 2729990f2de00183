"""Telephone prompts read by one speaker, with transcripts, one record a clip.

Sound stays encoded (`ogg`, the bytes of an Ogg Vorbis file): whoever needs samples brings the decoder, nobody else
pays for it. Loaded by `research.data.catalogue.load("asterisk_prompts")`; `README.md` gives source and licence.
"""

import zipfile
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
                    # Text is TFDS's name for a string of bytes, whatever they are.
                    "ogg": tfds.features.Text(doc="Bytes of an Ogg Vorbis file: 8 kHz, one channel."),
                    "file": tfds.features.Text(),
                    "seconds": tfds.features.Scalar(np.float32),
                    "transcript": tfds.features.Text(),
                }
            ),
            supervised_keys=("ogg", "transcript"),
            homepage="https://packages.debian.org/asterisk-core-sounds-en-wav",
            license="CC-BY-SA-3.0, (c) 2003-2010 Allison Smith; financial contributions by Digium, Inc.",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with (
            zipfile.ZipFile(RAW / "prompts.zip") as clips,
            open(RAW / "prompts.tsv", encoding="utf-8", newline="\n") as table,
        ):
            next(table)
            for key, line in enumerate(table):
                file, seconds, transcript = line.rstrip("\n").split("\t")
                yield (
                    key,
                    {"ogg": clips.read(file), "file": file, "seconds": float(seconds), "transcript": transcript},
                )
