"""The builders of TFDS, which prepare a data set into a cache folder once; `catalogue.py` reads what they prepared.

Only a data set that is asked for by name needs this module, since tensorflow_datasets takes half a second to import.
"""

import contextlib
import difflib
import fcntl
import importlib
import io
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder, registered
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.utils import tqdm_utils

from research.core.errors import UserError
from research.data import embedded

FILE_FORMAT = "array_record"


def prepared_builder(name: str, cache: Path) -> tfds.core.DatasetBuilder:
    """Returns a builder whose data are on disk.

    Args:
        name: as `catalogue.load` takes it.
        cache: the folder for prepared data.

    Raises:
        UserError: as `catalogue.load`.
    """
    base, _, config = name.partition("/")
    if base in embedded.names():
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
    sources = [path for path in sorted((embedded.DATASETS / base).iterdir()) if path.is_file()]
    state = embedded.check_raw_files(embedded.DATASETS / base) | {
        path.name: embedded.sha256(path.read_bytes()) for path in sources
    }
    folder = cache / embedded.sha256(json.dumps(state, sort_keys=True).encode())[:12]

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
        near = difflib.get_close_matches(base, [*embedded.names(), *catalogue], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"embedded are {', '.join(embedded.names())}."
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


def class_names(builder: tfds.core.DatasetBuilder) -> dict[str, list[str]]:
    """Returns the names of the classes by field, of those that are labels."""
    return {
        field: list(feature.names)
        for field, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.ClassLabel) and feature.names
    }
