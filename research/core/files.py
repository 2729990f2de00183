"""Files that survive a crash or a full disk, replaced atomically or appended whole; and safe reading of any path."""

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from research.core.errors import UserError, visible


def regular_size(path: str | Path) -> int:
    """Returns the bytes of a regular file without opening it; a pipe or a device would be read for ever.

    Raises:
        UserError: there is no such file, its name cannot be one, or it is a folder, a pipe or a device.
    """
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{shown(path)} cannot be read ({reason}): name a file that exists.") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise UserError(f"{shown(path)} is {what}, not a regular file: name a file, or save its content as one.")
    return found.st_size


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Returns the content of a regular file of at most `limit` bytes; raises UserError for any other."""
    if (size := regular_size(path)) > limit:
        raise UserError(f"{shown(path)} has {size:,} bytes, more than the {limit:,} that such a file may have.")
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}): check its permissions.") from None


def read_text(path: str | Path, limit: int) -> str:
    """Returns the content of such a file as text; raises UserError likewise, and where it is not UTF-8."""
    try:
        return read_bytes(path, limit).decode()
    except UnicodeDecodeError:
        raise UserError(f"{shown(path)} is not UTF-8, so it is no text: fetch it again.") from None


def shown(path: str | Path) -> str:
    """Returns a path for a message: shortened in its middle where it is very long, control characters escaped."""
    name = visible(path)
    return name if len(name) <= 300 else f"{name[:200]}...{name[-80:]}"


def write_atomic(path: Path, text: str) -> None:
    """Replaces `path` by `text` so that a reader, or a crash, sees the old file or the new one.

    A name that is not UTF-8 has halves of surrogate pairs in `text`: they are written as JSON escapes them.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with writing(path):
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Does the same, and raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # a pipe or a link in the way would be written into
        with open(temporary, "x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where it is not there; raises UserError where it cannot be made."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a file that cannot be written into one sentence."""
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
    with writing(path), open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            left = memoryview(lines.encode(errors="backslashreplace"))
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(before)  # a line cut short would spoil the next
            raise
