"""Data sets by name: those embedded beside this module, and any other of the TFDS catalogue.

`load("austen")` returns the records of every split, prepared once into a cache folder; `info("austen")` returns what a
run's record says about them. An embedded data set is a folder `datasets/NAME/` with `NAME_dataset_builder.py`: adding
one needs no change here. TensorFlow is never imported.
"""

import contextlib
import difflib
import fcntl
import hashlib
import importlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder, registered
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.utils import tqdm_utils

from research.core.errors import UserError
from research.data.dataset import Records
from research.runtime import backend

DATASETS = Path(__file__).parent / "datasets"
CHECKSUMS = "SHA256SUMS"
INFO_FILE = "dataset_info.json"
FILE_FORMAT = "array_record"


def names() -> list[str]:
    """Returns the names of the embedded data sets."""
    return sorted(path.parent.name for path in DATASETS.glob("*/*_dataset_builder.py"))


def cache_folder() -> Path:
    """Returns where data sets are prepared: $ONTOGENY_CACHE/tfds, else ontogeny/tfds in the user's cache folder."""
    return backend.cache_folder() / "tfds"


def load(name: str, *, cache: Path | None = None) -> dict[str, Records]:
    """Returns {split: records} of a data set, preparing it first where that was not done before.

    A record is a dictionary as TFDS gives it: text as UTF-8 `bytes`, labels as numbers (their names are in `info`),
    images as uint8 arrays.

    Args:
        name: an embedded data set (see `names`) or one of TFDS's catalogue; "NAME/CONFIG" picks a configuration.
        cache: the folder for prepared data; `cache_folder()` where not given.

    Raises:
        UserError: no such data set, a damaged raw file, or data that cannot be prepared here.
    """
    builder = _prepared_builder(name, cache or cache_folder())
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
            f"cannot be read by position: prepare it again with 'tfds build {name} --file_format={FILE_FORMAT}'."
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
    builder = _prepared_builder(name, cache or cache_folder())
    facts = builder.info
    base = name.partition("/")[0]
    files = check_raw_files(DATASETS / base) if base in names() else {}
    record = json.dumps(files, sort_keys=True).encode() if files else (Path(facts.data_dir) / INFO_FILE).read_bytes()
    return {
        "name": "/".join(filter(None, (builder.name, builder.builder_config and builder.builder_config.name))),
        "version": str(builder.version),
        "source": facts.homepage,
        "licence": facts.redistribution_info.license,
        "citation": facts.citation,
        "description": facts.description,
        "splits": {split: int(facts.splits[split].num_examples) for split in facts.splits},
        "labels": {
            field: list(feature.names)
            for field, feature in facts.features.items()
            if isinstance(feature, tfds.features.ClassLabel) and feature.names
        },
        "files": files,
        "digest": _sha256(record),
    }


def check_raw_files(folder: Path) -> dict[str, str]:
    """Returns {file: SHA-256} of an embedded data set's raw files, checked against the list beside them.

    Raises:
        UserError: a file listed in SHA256SUMS is missing or differs.
    """
    raw = [path for path in sorted(folder.glob("raw/**/*")) if path.is_file()]
    found = {path.relative_to(folder).as_posix(): _sha256(path.read_bytes()) for path in raw}
    if (folder / CHECKSUMS).exists():
        for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
            expected, name = line.split("  ", 1)
            if found.get(name) != expected:
                state = "is damaged or changed" if name in found else "is missing"
                raise UserError(
                    f"The raw data file {folder / name} {state} (SHA-256 {found.get(name, 'none')[:12]}, expected "
                    f"{expected[:12]}): restore it, or, where the change is meant, renew {folder / CHECKSUMS}."
                )
    downloads = folder / "checksums.tsv"
    return found | ({downloads.name: _sha256(downloads.read_bytes())} if downloads.exists() else {})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _prepared_builder(name: str, cache: Path) -> tfds.core.DatasetBuilder:
    """Returns a builder whose data are on disk."""
    base, _, config = name.partition("/")
    if base in names():
        return _embedded(base, config, cache)
    try:
        return _prepared_by_tfds(name, cache) or _prepare_by_tfds(name, cache)
    except ImportError as error:
        raise UserError(
            f"The data set {name!r} needs a package that is missing here ({error}): run 'tfds build {name} "
            f"--file_format={FILE_FORMAT}' where it is installed, and set TFDS_DATA_DIR to the folder it wrote to."
        ) from None


def _embedded(base: str, config: str, cache: Path) -> tfds.core.DatasetBuilder:
    """Prepares an embedded data set once for every state of its folder, so that an edited builder is never stale."""
    # TFDS's own builders may bear the same name, and TFDS refuses a second of a name in one process.
    with registered.skip_registration():
        builder_class = importlib.import_module(f"research.data.datasets.{base}.{base}_dataset_builder").Builder
    if config and config not in builder_class.builder_configs:
        known = sorted(builder_class.builder_configs) or "none: use the name alone"
        raise UserError(f"The data set {base!r} has no configuration {config!r}; it has {known}.")
    sources = [path for path in sorted((DATASETS / base).iterdir()) if path.is_file()]
    state = check_raw_files(DATASETS / base) | {path.name: _sha256(path.read_bytes()) for path in sources}
    folder = cache / _sha256(json.dumps(state, sort_keys=True).encode())[:12]

    def build() -> tfds.core.DatasetBuilder:
        return builder_class(data_dir=folder, config=config or None)

    builder = build()
    if builder.data_path.exists():
        return builder
    try:
        with _lock(folder), _quiet(progress=False):
            builder = build()
            if not builder.data_path.exists():
                _download_and_prepare(builder, cache / "downloads")
    except (OSError, RuntimeError) as error:  # the writer of records makes a RuntimeError of what the system refuses
        reason = str(error).strip().partition("\n")[0][:300]
        raise UserError(
            f"The data set {base!r} could not be prepared in {folder} ({reason}): make room and write access there, or "
            "set ONTOGENY_CACHE to another folder."
        ) from None
    return builder


def _prepared_by_tfds(name: str, cache: Path) -> tfds.core.DatasetBuilder | None:
    """Finds data prepared earlier: by TFDS in its own folder ($TFDS_DATA_DIR, else ~/tensorflow_datasets), or here."""
    for folder in (None, cache):
        with contextlib.suppress(tfds.core.DatasetNotFoundError), _quiet(progress=False):
            return read_only_builder.builder_from_files(name, data_dir=folder)
    return None


def _prepare_by_tfds(name: str, cache: Path) -> tfds.core.DatasetBuilder:
    """Downloads and prepares a data set of TFDS's catalogue, with TFDS's own progress bars."""
    base = name.partition("/")[0].partition(":")[0]
    catalogue = tfds.list_builders(with_community_datasets=False)
    if base not in catalogue:
        near = difflib.get_close_matches(base, [*names(), *catalogue], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"embedded are {', '.join(names())}."
        raise UserError(f"There is no data set {name!r}, neither embedded nor in TFDS's catalogue; {hint}")
    try:
        with _lock(cache), _quiet(progress=True):
            builder = tfds.builder(name, data_dir=cache)
            if not builder.data_path.exists():
                _download_and_prepare(builder, cache / "downloads")
    except ImportError:
        raise
    # Builders are strangers' code and fail in their own ways; none of them is a bug of ours.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(
            f"TFDS could not prepare the data set {name!r} ({type(error).__name__}: {reason}): that takes the network, "
            f"and for many data sets TensorFlow; run 'tfds build {name} --file_format={FILE_FORMAT}' where both are, "
            "and set TFDS_DATA_DIR to the folder it wrote to."
        ) from None
    return builder


def _download_and_prepare(builder: tfds.core.DatasetBuilder, downloads: Path) -> None:
    """Prepares under the lock; TFDS writes a folder `incomplete.*` beside the final one and renames it at the end."""
    for leftover in Path(builder.data_path).parent.glob("incomplete.*"):
        shutil.rmtree(leftover)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    retries = downloader.MAX_RETRIES
    # TFDS's ten retries take over three minutes to say that there is no network.
    downloader.MAX_RETRIES = 3
    try:
        builder.download_and_prepare(download_dir=downloads, file_format=FILE_FORMAT, download_config=config)
    finally:
        downloader.MAX_RETRIES = retries


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keeps other processes from preparing in `folder`; the system frees the lock of a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet(*, progress: bool) -> Iterator[None]:
    """Keeps TFDS's warnings off the terminal, and without `progress` its messages and progress bars too."""
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    tqdm_utils.display_progress_bar(progress)
    try:
        with contextlib.nullcontext() if progress else contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(True)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
