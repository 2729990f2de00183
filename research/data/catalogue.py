"""Data sets by name: those embedded beside this module, and any other of the TFDS catalogue.

`load("austen")` returns the records of every split, prepared once into a cache folder; `info("austen")` returns what a
run's record says about them. Adding an embedded data set needs no change here. TensorFlow is never imported.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.core.errors import UserError
from research.data import embedded
from research.data.dataset import Records
from research.runtime import backend

INFO_FILE = "dataset_info.json"


def cache_folder() -> Path:
    """Returns where data sets are prepared: $ONTOGENY_CACHE/tfds, else ontogeny/tfds in the user's cache folder."""
    return backend.cache_folder() / "tfds"


def load(name: str, *, cache: Path | None = None) -> dict[str, Records]:
    """Returns {split: records} of a data set, preparing it first where that was not done before.

    A record is a dictionary as TFDS gives it: text as UTF-8 `bytes`, labels as numbers (their names are in `info`),
    images as uint8 arrays.

    Args:
        name: an embedded data set (see `embedded.names`) or one of TFDS's; "NAME/CONFIG" picks a configuration.
        cache: the folder for prepared data; `cache_folder()` where not given.

    Raises:
        UserError: no such data set, a damaged raw file, or data that cannot be prepared here.
    """
    from research.data import tfds_builders  # half a second, so only where a data set has a name

    builder = tfds_builders.prepared_builder(name, cache or cache_folder())
    try:
        splits = dict(builder.as_data_source())
        for records in splits.values():
            records[0]  # decoding fails here, not later, where it needs TensorFlow
        return splits
    except ImportError:
        raise UserError(
            f"The records of {name!r} need TensorFlow to be decoded, which this project does without: export them to "
            "files, for example images to a folder with a sub-folder for each class, and give those."
        ) from None
    except NotImplementedError:
        raise UserError(
            f"The data set {name!r} was prepared in {builder.data_path} as {builder.info.file_format.value}, which "
            f"cannot be read by position: prepare it again with 'tfds build {name} "
            f"--file_format={tfds_builders.FILE_FORMAT}'."
        ) from None


def read(records: Records, positions: Sequence[int]) -> list[Any]:
    """Returns the records at these positions; TFDS reads many at once twice as fast as one after another."""
    many = getattr(records, "__getitems__", None)
    return list(many(list(positions))) if many and len(positions) else [records[position] for position in positions]


def info(name: str, *, cache: Path | None = None) -> dict[str, Any]:
    """Returns JSON values for the record: source, licence, citation, description, splits, labels, digests.

    `files` are the SHA-256 of the raw files of an embedded data set (and of the list of checksums of what it
    downloads); `digest` is the SHA-256 of `files`, or, where there are none, of what TFDS wrote down about the data.
    Arguments and errors are those of `load`.
    """
    from research.data import tfds_builders  # half a second, so only where a data set has a name

    builder = tfds_builders.prepared_builder(name, cache or cache_folder())
    facts = builder.info
    base = name.partition("/")[0]
    files = embedded.check_raw_files(embedded.DATASETS / base) if base in embedded.names() else {}
    record = json.dumps(files, sort_keys=True).encode() if files else (Path(facts.data_dir) / INFO_FILE).read_bytes()
    return {
        "name": "/".join(filter(None, (builder.name, builder.builder_config and builder.builder_config.name))),
        "version": str(builder.version),
        "source": facts.homepage,
        "licence": facts.redistribution_info.license,
        "citation": facts.citation,
        "description": facts.description,
        "splits": {split: int(facts.splits[split].num_examples) for split in facts.splits},
        "labels": tfds_builders.class_names(builder),
        "files": files,
        "digest": embedded.sha256(record),
    }
