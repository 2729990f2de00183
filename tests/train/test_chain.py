"""The hash chain of a run: any difference shows at its step, with the part it came from."""

import numpy as np
import pytest

from research.train.chain import START, batch_digest, first_difference, next_entry

BATCH = {"inputs": np.arange(6, dtype=np.int32).reshape(2, 3), "mask": np.ones(2, np.float32)}


def metrics(loss: float = 1.0, random: int = 7):
    return {"loss": np.float32(loss), "random": np.uint32([random, 1])}


def chain_of(*steps):
    """A chain with one entry for each (batch digest, metrics, params digest)."""
    head, entries = START, []
    for number, (batch, result, params) in enumerate(steps, start=1):
        entries.append(next_entry(head, number, batch, result, params))
        head = entries[-1]["chain"]
    return entries


RIGHT = [("aa", metrics(), None), ("bb", metrics(), "cc"), ("dd", metrics(), None)]


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (("xx", metrics(), "cc"), ["batch"]),
        (("bb", metrics(random=8), "cc"), ["random"]),
        (("bb", metrics(loss=float(np.nextafter(np.float32(1), np.float32(2)))), "cc"), ["result"]),
        (("bb", metrics(), "xx"), ["params"]),
        (("bb", metrics(), None), ["params"]),
    ],
)
def test_the_first_difference_names_its_step_and_its_part(wrong, parts):
    """A changed batch, key, last bit of the loss, or parameter digest: step 2, and every entry after it differs."""
    right, other = chain_of(*RIGHT), chain_of(RIGHT[0], wrong, RIGHT[2])
    assert first_difference(right, other) == (2, parts)
    assert right[2]["chain"] != other[2]["chain"]


def test_equal_chains_and_a_chain_cut_short_do_not_differ():
    """A run stopped earlier is the same run so far."""
    assert first_difference(chain_of(*RIGHT), chain_of(*RIGHT)) is None
    assert first_difference(chain_of(*RIGHT), chain_of(*RIGHT[:2])) is None


@pytest.mark.parametrize(
    "other",
    [
        {**BATCH, "mask": np.float32([1, 0])},
        {**BATCH, "mask": np.ones(2, np.float64)},
        {**BATCH, "inputs": BATCH["inputs"].reshape(3, 2)},
        {"inputs": BATCH["inputs"]},
        {"input": BATCH["inputs"], "mask": BATCH["mask"]},
    ],
)
def test_a_batchs_digest_sees_values_types_shapes_and_names(other):
    """The order of the names does not matter."""
    assert batch_digest(BATCH) == batch_digest(dict(reversed(BATCH.items())))
    assert batch_digest(BATCH) != batch_digest(other)
