"""Files that survive a crash or a full disk: replaced atomically, or JSON lines appended whole."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from research.core.errors import UserError


def write_atomic(path: Path, text: str) -> None:
    """Replaces `path` by `text` so that a reader, or a crash, sees the old file or the new one.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with _writing(path):
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free space there or choose another place with --runs DIR; "
            "a run that had begun continues with --resume."
        ) from None


def finite(value: Any) -> Any:
    """Returns nested JSON values with None for every number that JSON does not have: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def append_lines(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Appends JSON lines, all or none; raises UserError where they cannot be written."""
    lines = "".join(json.dumps(finite(entry), ensure_ascii=False) + "\n" for entry in entries)
    with _writing(path), open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            left = memoryview(lines.encode())
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(before)  # a line cut short would spoil the next
            raise


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the JSON lines of a file; a last line cut short by a crash is passed over."""
    if not path.exists():
        return
    with open(path, "rb") as file:  # as bytes, since a crash may cut a character as well
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def truncate_after(path: Path, step: int) -> None:
    """Keeps the lines up to and including `step`, so that a resumed run continues its files without a seam.

    Lines are in the order of their steps. What is cut needs no space, so that a full disk does not matter.
    """
    if not path.exists():
        return
    with open(path, "r+b") as file:
        kept = 0
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            kept += len(line)
        file.truncate(kept)
