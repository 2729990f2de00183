"""The one reader of JSON that others wrote: strict, of bounded depth and size, and a sentence for what is wrong.

`json.loads` takes NaN and repeated keys, and ends in a RecursionError or a ValueError for deep
nesting and long numbers. `parse_json` refuses them all with a `UserError` that names the place; `read_json` reads a
whole file, and `read_lines` one of a value a line, as `files.append_lines` writes it.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from research.core.errors import UserError
from research.core.files import read_bytes, regular_size, writing

MAX_DEPTH = 100  # far below the interpreter's own limit, so that what was read can also be written
LIMIT_BYTES = 2**28  # of a record, and of a line
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(
    text: str, place: str, *, nan_is_none: bool = False, own: bool = False, remedy: str = "fix it there"
) -> Any:
    """Returns the value of a JSON text (RFC 8259).

    Args:
        text: one JSON value, with any white space around it.
        place: where it stands, such as a file and a line, for messages.
        nan_is_none: NaN, which Python writes for a missing number, is None instead of refused.
        own: the text may have been written here, where a number may be NaN or infinite, and the name of a file not in
            UTF-8 has halves of surrogate pairs.
        remedy: what to do where the text is no JSON.

    Raises:
        UserError: the text is not JSON, nests deeper than 100 levels, repeats a key, has a number that is no finite
            one or has thousands of digits, or half of a surrogate pair.

    >>> parse_json('{"loss": 1.5}', "line 1")
    {'loss': 1.5}
    """
    if text.startswith("\ufeff"):
        text = text[1:]

    try:
        value = json.loads(
            text,
            parse_constant=partial(_constant, place, own, nan_is_none),
            object_pairs_hook=partial(_unique, place),
        )
    except RecursionError:
        raise _too_deep(place) from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise UserError(f"{place}: not JSON ({error.msg} at {line}column {error.colno}); {remedy}.") from None
    except ValueError:  # of int(), which takes no more digits
        raise UserError(f"{place}: a whole number has thousands of digits; write it as text, in quotes.") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:  # else it cannot be as deep
        _check_depth(value, place)
    if not own and SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{place}: the text holds half of a surrogate pair (\\ud800 to \\udfff); fix its escapes."
            ) from None
    return value


def _constant(place: str, own: bool, nan_is_none: bool, name: str) -> float | None:
    if own:
        return float(name)
    if not nan_is_none or name != "NaN":
        raise UserError(f"{place}: JSON has no number {name}; write null where the number is missing.")
    return None


def _unique(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise UserError(f"{place}: the key {twice[:80]!r} stands twice in one object; keep one of them.")
    return found


def read_json(path: Path, limit_bytes: int = LIMIT_BYTES, *, own: bool = False) -> Any:
    """Returns the value of a JSON file in UTF-8; raises UserError as `parse_json` and `read_bytes` do."""
    content = read_bytes(path, limit_bytes)
    try:
        return parse_json(content.decode(), str(path), own=own)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte 0x{content[error.start]:02x} at offset {error.start}).") from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the JSON lines of a file, none where there is none; a last line cut short by a crash is passed over.

    Raises:
        UserError: the file cannot be read, or a line is no JSON object; says which.
    """
    for _, entry in _entries(path):
        yield entry


def truncate_after(path: Path, step: int) -> None:
    """Keeps the lines up to and including `step`, so that a resumed run continues its files without a seam.

    Lines are in the order of their steps. What is cut needs no space, so that a full disk does not matter.

    Raises:
        UserError: as `read_lines`, or a line has no step: nothing is cut then; or the file cannot be changed.
    """
    kept = 0
    for number, (line, entry) in enumerate(_entries(path), start=1):
        if not isinstance(entry.get("step"), int):
            raise UserError(f"{path}, line {number}: there is no step; restore the file from a copy.")
        if entry["step"] > step:
            break
        kept += len(line)
    if path.exists():
        with writing(path):
            os.truncate(path, kept)


def _entries(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields the whole lines of a file with their values."""
    if not path.exists() and not path.is_symlink():
        return
    regular_size(path)
    with open(path, "rb") as file:  # as bytes, since a crash may cut a character as well
        number = 0
        while line := file.readline(LIMIT_BYTES):
            number += 1
            place = f"{path}, line {number}"
            if not line.endswith(b"\n"):
                if len(line) == LIMIT_BYTES:
                    raise UserError(f"{place}: it has more than {LIMIT_BYTES:,} bytes; restore the file from a copy.")
                return
            try:
                entry = parse_json(line.decode(), place, own=True)
            except UnicodeDecodeError:
                raise UserError(f"{place}: it is not UTF-8; restore the file from a copy.") from None
            if not isinstance(entry, dict):
                raise UserError(f"{place}: it is no JSON object; restore the file from a copy.")
            yield line, entry


def _check_depth(value: Any, place: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep(place)


def _too_deep(place: str) -> UserError:
    return UserError(f"{place}: the JSON nests deeper than {MAX_DEPTH} levels; make it flatter.")
