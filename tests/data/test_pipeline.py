"""Batches are functions of (seed, step); padding is masked; the background thread keeps order, errors and manners."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.dataset import Rows
from research.data.pipeline import evaluation_batches, gather, prefetch, training_batches
from research.data.text.packing import Windows


def rows(count: int) -> Rows:
    return Rows({"inputs": np.arange(count, dtype=np.float32)[:, None], "labels": np.arange(count, dtype=np.int32)})


@given(count=st.integers(1, 50), size=st.integers(1, 20), seed=st.integers(0, 9), step=st.integers(0, 500))
def test_a_batch_is_a_function_of_seed_and_step(count, size, seed, step):
    """Asked in any order, by any process, the batch of a step is the same."""
    records = rows(count)
    ask, ask_again = (training_batches(records, batch_size=size, seed=seed) for _ in range(2))
    for other in (step + 1, 0, step // 2, step + 1000):
        ask_again(other)
    first, again = ask(step), ask_again(step)
    assert {"inputs", "labels", "mask", "index", "real"} == set(first)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    np.testing.assert_array_equal(first["inputs"][:, 0], first["labels"])
    np.testing.assert_array_equal(first["index"], first["labels"])
    assert first["mask"].tolist() == [1] * size


@given(count=st.integers(1, 60), size=st.integers(1, 20))
def test_every_epoch_visits_every_record_once_in_a_row_of_batches(count, size):
    """Epochs follow each other without a gap, also where the batch does not divide the records."""
    batch = training_batches(rows(count), batch_size=size, seed=0)
    seen = np.concatenate([batch(step)["labels"] for step in range(-(-2 * count // size))])
    assert sorted(seen[:count]) == sorted(seen[count : 2 * count]) == list(range(count))


@given(parts=st.sampled_from([1, 2, 4]), step=st.integers(0, 200))
def test_hosts_make_only_their_rows(parts, step):
    """The rows of all hosts together are the batch."""
    full = training_batches(rows(30), batch_size=8, seed=1)(step)["labels"]
    size = 8 // parts
    slices = [slice(part * size, (part + 1) * size) for part in range(parts)]
    own = [training_batches(rows(30), batch_size=8, seed=1, rows=its)(step)["labels"] for its in slices]
    np.testing.assert_array_equal(np.concatenate(own), full)


def test_another_seed_gives_other_batches():
    """With the same records."""
    first, other = (training_batches(rows(100), batch_size=20, seed=seed)(0)["labels"] for seed in (0, 1))
    assert first.tolist() != other.tolist()


def test_no_records_are_refused():
    """One sentence instead of a division by zero."""
    with pytest.raises(UserError, match="The training split is empty"):
        training_batches(rows(0), batch_size=2, seed=0)


def test_records_without_their_own_gather_are_stacked():
    """Any sequence of examples will do."""
    examples = [{"inputs": np.float32([n]), "labels": np.int32(n)} for n in range(5)]
    found = gather(examples, np.array([3, 1]))
    np.testing.assert_array_equal(found["inputs"], [[3], [1]])
    np.testing.assert_array_equal(found["labels"], [3, 1])


@given(count=st.integers(0, 30), size=st.integers(1, 12), limit=st.none() | st.integers(0, 40))
def test_evaluation_sees_every_record_once_and_masks_the_padding(count, size, limit):
    """Equal shapes for every batch; the mask's ones are the records, in order."""
    batches = list(evaluation_batches(rows(count), size, limit))
    assert all(len(batch["labels"]) == len(batch["mask"]) == size for batch in batches)
    seen = [int(label) for batch in batches for label in batch["labels"][batch["mask"] > 0]]
    assert seen == list(range(count if limit is None else min(limit, count)))


def test_padding_masks_whole_rows_of_tokens():
    """A mask of tokens keeps what the records said, and is 0 in padded rows."""
    records = Windows(np.arange(8, dtype=np.int32), 3, stride=3)  # 3 windows, the last with one target
    (first, last) = evaluation_batches(records, 2)
    assert first["mask"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert last["mask"].tolist() == [[1, 0, 0], [0, 0, 0]]


def test_prefetch_keeps_the_order_and_works_ahead():
    """While the consumer waits, up to `ahead` items are ready and one is in hand."""
    made = []

    def make(step: int) -> int:
        made.append(step)
        return step * step

    items = prefetch(make, 3, 30, ahead=4)
    assert next(items) == 9
    deadline = time.monotonic() + 10
    while len(made) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 6 <= len(made) <= 7
    assert list(items) == [step * step for step in range(4, 30)]
    assert made == list(range(3, 30))


def test_an_error_is_raised_at_its_step():
    """What was made before it arrives first; nothing is made after it."""
    made = []

    def make(step: int) -> int:
        made.append(step)
        if step == 2:
            raise UserError("row 2 is bad")
        return step

    items = prefetch(make, 0, 10, ahead=3)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(UserError, match="row 2 is bad"):
        next(items)
    assert made == [0, 1, 2]


@pytest.mark.parametrize("taken", [0, 1])
def test_closing_stops_the_thread(taken):
    """Also while it waits for room, and before the first item was asked for."""
    before = threading.active_count()
    items = prefetch(lambda step: step, 0, 10**9, ahead=3)
    for _ in range(taken):
        next(items)
    items.close()
    assert threading.active_count() == before
