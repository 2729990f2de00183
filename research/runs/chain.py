"""The hash chain of a run: each step's entry covers its batch, its random key, its result, and the entry before.

Two runs are the same to the bit exactly if their chains are equal; where they are not, the first differing entry says
whether the data, the randomness or the arithmetic came apart first.
"""

import hashlib
import zlib
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt32

from research.core import trees
from research.core.shapes import Batch
from research.data.shuffle import mix

START = "0" * 64
PARTS = ("batch", "random", "result", "params")
ROW_DIGESTS = "row_digests"  # the field of a batch that holds them; the step returns their sum
ROW_FACTS = ("index", "real")  # fields that say which rows these are, not what they hold


def row_digests(batch: Batch, first: int = 0) -> UInt32[np.ndarray, "batch 2"]:
    """Returns 64 bits for each row, which cover its place in the batch, its fields' names, types, shapes and bytes.

    The digest of a batch is the sum of its rows', modulo 2^32 each half: an order-free sum of whole numbers, which any
    number of processes and devices, each with some of the rows, add up to the same.

    Args:
        batch: fields of equal leading axis, on the host; `ROW_FACTS` are left out.
        first: the place of the first row in the whole batch.
    """
    count = len(next(iter(batch.values())))
    digests = mix(np.arange(first, first + count, dtype=np.uint64))
    for name in sorted(batch.keys() - set(ROW_FACTS)):
        array = np.ascontiguousarray(batch[name])
        data = array.reshape(count, -1).view(np.uint8)
        words = np.pad(data, ((0, 0), (0, -data.shape[1] % 8))).view(np.uint64)
        form = zlib.crc32(f"{name} {array.dtype} {array.shape[1:]}".encode())
        places = np.arange(form, form + words.shape[1], dtype=np.uint64) << np.uint64(24)
        digests = mix(digests ^ mix(words ^ mix(places)).sum(1, dtype=np.uint64))
    return digests.view(np.uint32).reshape(count, 2)


def next_entry(head: str, step: int, metrics: dict[str, Any], params: str | None) -> dict[str, Any]:
    """Returns the entry of `step`.

    Args:
        head: the chain value of the entry before, `START` for the first.
        step: completed steps, from 1.
        metrics: what the step returned, on the host; `batch` holds the digest of its batch, `random` its key's bits.
        params: the SHA-256 of the parameters after the step, at the steps where it is taken.
    """
    entry = {
        "step": step,
        "batch": metrics["batch"].tobytes().hex(),
        "random": metrics["random"].tobytes().hex(),
        "result": trees.digest({name: value for name, value in metrics.items() if name not in PARTS})[:16],
    }
    if params is not None:
        entry["params"] = params
    text = head + " ".join(str(entry.get(part)) for part in ("step", *PARTS))
    return {**entry, "chain": hashlib.sha256(text.encode()).hexdigest()}


def first_difference(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> tuple[int, list[str]] | None:
    """Returns (step, parts that differ) where two chains first differ, or None where one continues the other."""
    for first, second in zip(left, right, strict=False):
        if first != second:
            return first["step"], [part for part in PARTS if first.get(part) != second.get(part)] or ["chain"]
    return None


def host(metrics: Any) -> dict[str, Any]:
    """Fetches a step's metrics."""
    return {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
