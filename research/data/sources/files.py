"""Which files a user's paths and patterns name: regular files, and folders that Hugging Face `datasets` saved.

`matching_files` resolves them before any is opened; `digests` says in a run's record what they were.
"""

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.core.errors import UserError, listed
from research.core.files import regular_size, shown
from research.core.json_files import read_json

STATE, SPLITS = "state.json", "dataset_dict.json"  # of a folder that `datasets.save_to_disk` wrote
MAX_STATE = 16 * 2**20  # bytes


def matching_files(paths: Sequence[str]) -> list[Path]:
    """Resolves files, folders of saved data sets, and patterns, each once; `**` stands for any folders.

    Raises:
        UserError: a name matches nothing, or a folder, a pipe or a device that holds no data we read.
    """
    files: dict[Path, None] = {}
    for path in paths:
        files.update(dict.fromkeys(_matching(path)))
    if not files:
        raise UserError("No data files were named; give at least one path, such as 'books/*.txt'.")
    return list(files)


def _matching(path: str) -> list[Path]:
    if _exists(path):
        return [_checked(Path(path))]
    matches = [Path(match) for match in sorted(glob.glob(path, recursive=True))]
    found = [_checked(match) for match in matches if match.is_file() or (match / STATE).is_file()]
    if not found:
        what = "matches only folders" if any(match.is_dir() for match in matches) else "matches no file"
        raise UserError(f"{shown(path)} {what}; name a file, or files with a pattern in quotes such as 'books/*.txt'.")
    return found


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name too long
        return False


def _checked(path: Path) -> Path:
    if not path.is_dir():
        regular_size(path)
        return path
    if (path / STATE).is_file():
        return path
    if (path / SPLITS).is_file():
        splits = _field(path / SPLITS, "splits") or ["train"]
        raise UserError(
            f"{shown(path)} holds the splits {listed(splits)} of a data set: name the folder of one, such as "
            f"{shown(path / str(splits[0]))}."
        )
    raise UserError(
        f"{shown(path)} is a folder; name a file, or files with a pattern in quotes such as '{shown(path)}/*.txt'."
    )


def saved_parts(folder: Path) -> list[Path]:
    """Returns the Arrow files of a folder that `datasets.save_to_disk` wrote, in the order of their rows.

    Raises:
        UserError: the folder's list of them is damaged, or names what is no file of the folder.
    """
    if _field(folder / STATE, "_indices_data_files", default=[]):
        raise UserError(f"{shown(folder)} keeps its rows in another order: call flatten_indices() and save it again.")
    parts = []
    for entry in _field(folder / STATE, "_data_files"):
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{shown(folder / STATE)} names {name!r}, which is no file of its folder: save it again.")
        regular_size(folder / name)
        parts.append(folder / name)
    return parts


def _field(path: Path, name: str, default: Any = None) -> list[Any]:
    found = read_json(path, MAX_STATE)
    value = found.get(name, default) if isinstance(found, dict) else None
    if not isinstance(value, list):
        raise UserError(f"{shown(path)} has no list {name!r}, as a data set saved by `datasets` has: save it again.")
    return value


def digests(files: Sequence[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file as it is stored, by its path; of a folder, that of its data files' own."""
    return {str(file): _folder_digest(file) if file.is_dir() else _digest(file) for file in files}


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{shown(file)} cannot be read ({error.strerror}); check its permissions.") from None


def _folder_digest(folder: Path) -> str:
    lines = (f"{_digest(part)}  {part.name}\n" for part in saved_parts(folder))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
