"""The hash chain of a run: each step's entry covers its batch, its random key, its result, and the entry before.

Two runs are the same to the bit exactly if their chains are equal; where they are not, the first differing entry says
whether the data, the randomness or the arithmetic came apart first.
"""

import hashlib
from typing import Any

import jax
import numpy as np

START = "0" * 64
PARTS = ("batch", "random", "result", "params")


def batch_digest(batch: Any) -> str:
    """Returns the digest of a batch's names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(batch):
        array = np.ascontiguousarray(batch[name])
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:16]


def next_entry(head: str, step: int, batch: str, metrics: dict[str, Any], params: str | None) -> dict[str, Any]:
    """Returns the entry of `step`.

    Args:
        head: the chain value of the entry before, `START` for the first.
        step: completed steps, from 1.
        batch: the digest of the step's batch.
        metrics: what the step returned, on the host; `random` holds its key's bits.
        params: the SHA-256 of the parameters after the step, at the steps where it is taken.
    """
    result = {name: value for name, value in metrics.items() if name != "random"}
    entry = {
        "step": step,
        "batch": batch,
        "random": np.asarray(metrics["random"]).tobytes().hex(),
        "result": batch_digest(result),
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
