"""Damaged copies of a file, the same ones for the same seed."""

from collections.abc import Iterator
from random import Random

EXTREMES = (0, 1, 127, 128, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


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
