"""Records from JSON: one object on each line, or an array of objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from research.core.errors import UserError
from research.core.files import shown
from research.core.json_files import parse_json
from research.data.sources.text import text_of

Record = dict[str, Any]


def json_lines(path: Path) -> Iterator[tuple[str, Record]]:
    """Yields (place, record) for each line that is not blank; raises UserError for one that is no object."""
    name = shown(path)
    for number, line in enumerate(text_of(path).split("\n"), start=1):  # other line ends belong to texts
        if line.strip():
            place = f"{name}:{number}"
            value = parse_json(line, place, nan_is_none=True, remedy="give one JSON object on each line")
            yield place, _object(value, place, "one JSON object on each line")


def json_array(path: Path) -> Iterator[tuple[str, Record]]:
    """Yields (place, record) for each object of an array; raises UserError for any other element."""
    name = shown(path)
    for number, value in enumerate(parse_json(text_of(path), name, nan_is_none=True), start=1):
        place = f"{name}:record {number}"
        yield place, _object(value, place, "an array of JSON objects")


def _object(value: Any, place: str, wanted: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(f"{place}: found {type(value).__name__}, not an object; give {wanted}.")
    return value
