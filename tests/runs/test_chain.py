"""The hash chain of a run: any difference shows at its step, with the part it came from."""

from itertools import pairwise

import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.runs.chain import START, first_difference, next_entry, row_digests

BATCH = {"inputs": np.arange(6, dtype=np.int32).reshape(2, 3), "mask": np.ones(2, np.float32)}


def metrics(batch: int = 5, random: int = 7, loss: float = 1.0):
    """What a step returns: the bits of its batch's digest and of its key, and its results."""
    return {"batch": np.uint32([batch, 1]), "random": np.uint32([random, 1]), "loss": np.float32(loss)}


def chain_of(*steps):
    """A chain with one entry for each (metrics, params digest)."""
    head, entries = START, []
    for number, (result, params) in enumerate(steps, start=1):
        entries.append(next_entry(head, number, result, params))
        head = entries[-1]["chain"]
    return entries


RIGHT = [(metrics(), None), (metrics(), "cc"), (metrics(), None)]


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ((metrics(batch=6), "cc"), ["batch"]),
        ((metrics(random=8), "cc"), ["random"]),
        ((metrics(loss=float(np.nextafter(np.float32(1), np.float32(2)))), "cc"), ["result"]),
        ((metrics(), "xx"), ["params"]),
        ((metrics(), None), ["params"]),
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


def batch_digest(batch, *parts):
    """The digest of a batch whose rows several processes have made: the sum of their rows' digests."""
    edges = [0, *parts, len(batch["inputs"])]
    cut = [({name: field[start:end] for name, field in batch.items()}, start) for start, end in pairwise(edges)]
    return np.concatenate([row_digests(*part) for part in cut]).sum(0, dtype=np.uint32).tolist()


@pytest.mark.parametrize(
    "other",
    [
        {**BATCH, "mask": np.float32([1, 0])},
        {**BATCH, "mask": np.ones(2, np.float64)},
        {**BATCH, "inputs": BATCH["inputs"].reshape(2, 1, 3)},
        {**BATCH, "inputs": BATCH["inputs"][:, ::-1]},
        {name: field[::-1] for name, field in BATCH.items()},
        {"inputs": BATCH["inputs"]},
        {"input": BATCH["inputs"], "mask": BATCH["mask"]},
    ],
)
def test_a_batchs_digest_sees_values_types_shapes_names_and_places(other):
    """The order of the names does not matter, the order of the rows and of what is in them does."""
    assert batch_digest(BATCH) == batch_digest(dict(reversed(BATCH.items())))
    assert row_digests(BATCH).sum(0).tolist() != row_digests(other).sum(0).tolist()


@given(data=st.data())
def test_a_batchs_digest_is_that_of_its_rows_wherever_they_were_made(data):
    """Cut into any parts, a batch has the same digest, and one changed bit in any row another."""
    inputs = data.draw(hypothesis.extra.numpy.arrays(np.uint32, (6, 5)))
    parts = data.draw(st.lists(st.integers(1, 5), unique=True).map(sorted))
    whole = batch_digest({"inputs": inputs})
    assert batch_digest({"inputs": inputs}, *parts) == whole
    row, column, bit = (data.draw(st.integers(0, most)) for most in (5, 4, 31))
    changed = inputs.copy()
    changed[row, column] ^= np.uint32(1) << np.uint32(bit)
    assert batch_digest({"inputs": changed}) != whole
