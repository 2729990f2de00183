"""Damaged copies of a file or of a JSON value, the same ones for the same seed."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

EXTREMES = (0, 1, 127, 128, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)

DEEP: Any = None
for _ in range(90):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 5, 2**63, 10**30, 10**400, -0.5, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "../..", "/etc", "a\x00b", "\x1b[31m", "\ud800", "<script>", "[/b]", "9" * 5000, "{{ 7 * 7 }}", "|"),
    *(
        [],
        [5],
        [None],
        [[]],
        ["a", "b"],
        {},
        {"a": 5},
        {"": ""},
        {"type": 5},
        {"type": "research.models.gpt.GPT"},
        DEEP,
    ),
)


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yields `count` copies of `data`, each with one to eight bits flipped, parts cut, put in or moved, or numbers set.

    >>> list(mutations(b"abc", 3, seed=0)) == list(mutations(b"abc", 3, seed=0))
    True
    """
    random = Random(seed)
    for _ in range(count):
        mutated = data
        for _ in range(random.choice((1, 1, 1, 2, 8))):
            mutated = random.choice((_flip, _flip, _number, _number, _insert, _splice, _truncate))(mutated, random)
        yield mutated


def _place(data: bytes, random: Random) -> int:
    """A position; every other one among the first 128, where most formats keep their sizes."""
    return random.randrange(min(len(data), random.choice((128, len(data)))) + 1)


def _flip(data: bytes, random: Random) -> bytes:
    at, bit = _place(data, random), 1 << random.randrange(8)
    return data[:at] + bytes(byte ^ bit for byte in data[at : at + 1]) + data[at + 1 :]


def _number(data: bytes, random: Random) -> bytes:
    size, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    number = random.choice(EXTREMES) % 256**size
    at = _place(data, random)
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def _insert(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + random.randbytes(random.choice((1, 2, 8, 100))) + data[at:]


def _splice(data: bytes, random: Random) -> bytes:
    at, start = _place(data, random), _place(data, random)
    return data[:at] + data[start : start + random.choice((1, 4, 16, 100))] + data[at:]


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of every value inside a JSON value, the first two items of a list standing for the others."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [at, *(place for name, item in inside for place in places(item, (*at, name)))]


def mutated_value(value: Any, draw: Random) -> Any:
    """Returns a copy of a JSON value in which one place has another value, is gone, or is there twice."""
    at = draw.choice(places(value))
    if not at:
        return draw.choice(ODD)
    copy = parent = json.loads(json.dumps(value))
    for name in at[:-1]:
        parent = parent[name]
    match draw.randrange(8):
        case 0:
            del parent[at[-1]]
        case 1 if isinstance(parent, list):
            parent.append(parent[at[-1]])
        case 1:
            parent[draw.choice(("name", "step", "kind", "steps", "loss", "x"))] = parent[at[-1]]
        case _:
            parent[at[-1]] = draw.choice(ODD)
    return copy
