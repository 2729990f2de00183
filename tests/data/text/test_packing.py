"""No token is lost in packing, each is a target exactly once, and nothing crosses from document to document."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.dataset import Rows
from research.data.text.packing import Windows, best_fit_of_pairs, pack, pack_documents

lengths = st.integers(1, 9)


@given(st.integers(2, 60), lengths)
def test_evaluation_windows_predict_every_token_once(size: int, length: int) -> None:
    """With stride = length the unmasked targets are tokens 1, 2, ... in order, each from the token before."""
    tokens = np.arange(100, 100 + size)
    rows = Windows(tokens, length, stride=length)
    batch = rows.gather(np.arange(len(rows)))
    real = batch["mask"] == 1
    assert batch["targets"][real].tolist() == tokens[1:].tolist()
    assert batch["inputs"][real].tolist() == tokens[:-1].tolist()
    assert not batch["inputs"][~real].any() and not batch["targets"][~real].any()
    assert real.any(axis=1).all()


@given(st.integers(10, 60), lengths)
def test_training_windows_start_at_every_offset(size: int, length: int) -> None:
    """With stride 1 window i is tokens i to i + length, full, and the last one ends the stream."""
    tokens = np.arange(size, dtype=np.uint16)
    rows = Windows(tokens, length, stride=1)
    assert len(rows) == size - length
    for index in (0, len(rows) - 1):
        assert rows[index]["inputs"].tolist() == tokens[index : index + length].tolist()
        assert rows[index]["targets"].tolist() == tokens[index + 1 : index + length + 1].tolist()
        assert rows[index]["mask"].all()


@given(st.integers(10, 60), lengths, st.data())
def test_any_stride_covers_every_target(size: int, length: int, data: st.DataObject) -> None:
    """Whatever the stride, every token but the first is a target, and there is no window too many."""
    rows = Windows(np.arange(size), length, stride=data.draw(st.integers(1, length)))
    batch = rows.gather(np.arange(len(rows)))
    assert set(batch["targets"][batch["mask"] == 1].tolist()) == set(range(1, size))
    assert batch["mask"][:-1].all() and batch["mask"][-1].any()


def documents_of(sizes: list[int]) -> list[np.ndarray]:
    """Documents whose tokens all differ, so that a target tells where it came from."""
    starts = np.cumsum([0, *sizes])
    return [np.arange(start, start + size) + 1 for start, size in zip(starts, sizes, strict=False)]


@given(st.lists(st.integers(0, 25), min_size=1, max_size=20).filter(lambda sizes: max(sizes) > 1), lengths)
def test_every_token_but_each_first_is_a_target_once(sizes: list[int], length: int) -> None:
    """Over all rows the targets are the tokens of all documents but their first, each once, from the token before."""
    documents = documents_of(sizes)
    rows = pack_documents(documents, length).arrays
    real = rows["mask"] == 1
    expected = Counter(token for document in documents for token in document[1:].tolist())
    assert Counter(rows["targets"][real].tolist()) == expected
    assert (rows["targets"][real] == rows["inputs"][real] + 1).all()


@given(st.lists(st.integers(2, 25), min_size=1, max_size=20), lengths)
def test_no_segment_holds_two_documents(sizes: list[int], length: int) -> None:
    """A segment is a run of one document with positions from 0; padding is segment 0 and comes last."""
    documents = documents_of(sizes)
    home = {token: index for index, document in enumerate(documents) for token in document.tolist()}
    rows = pack_documents(documents, length)
    for row in (rows[index] for index in range(len(rows))):
        assert ((row["segments"] > 0) == (row["mask"] == 1)).all()
        used = int(row["mask"].sum())
        assert row["mask"][:used].all()
        assert sorted(set(row["segments"][:used].tolist())) == list(range(1, row["segments"].max() + 1))
        for segment in range(1, row["segments"].max() + 1):
            inside = row["segments"] == segment
            assert (
                len({home[token] for token in [*row["inputs"][inside].tolist(), *row["targets"][inside].tolist()]}) == 1
            )
            assert row["positions"][inside].tolist() == list(range(inside.sum()))


@given(st.lists(st.integers(2, 9), min_size=1, max_size=30))
def test_short_documents_are_never_cut(sizes: list[int]) -> None:
    """A document that fits a row is one segment of one row, and the rows are never more than the documents."""
    rows = pack_documents(documents_of(sizes), 8)
    segments = sum(row["segments"].max() for row in (rows[index] for index in range(len(rows))))
    assert segments == len(sizes) >= len(rows)


def test_packing_is_dense() -> None:
    """Best fit fills rows: three documents of 5, 3 and 8 predictions make two rows of 8 without padding."""
    rows = pack_documents(documents_of([6, 9, 4]), 8)
    assert len(rows) == 2 and rows.arrays["mask"].all()


def test_a_stream_runs_on_across_documents() -> None:
    """Without boundaries the first token of a document is predicted from the last of the one before."""
    rows = Windows(np.concatenate(documents_of([3, 4])), 3, 3)
    batch = rows.gather(np.arange(len(rows)))
    assert batch["inputs"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch["targets"].tolist() == [[2, 3, 4], [5, 6, 7]]


@pytest.mark.parametrize("rows", [Windows(np.arange(30), 4, 3), pack_documents(documents_of([5, 9, 2]), 4)], ids=repr)
def test_gather_equals_single_examples(rows: Windows | Rows) -> None:
    """A gathered batch is the stack of its examples, with the types that models expect."""
    indices = np.array([1, 0, len(rows) - 1])
    batch = rows.gather(indices)
    for name, array in batch.items():
        assert array.dtype == (np.float32 if name == "mask" else np.int32)
        np.testing.assert_array_equal(array, np.stack([rows[int(index)][name] for index in indices]))
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Windows(np.arange(8), 8, 1), "only 8 tokens where at least 9"),
        (lambda: Windows(np.arange(1), 8, 8), "only 1 tokens where at least 2"),
        (lambda: Windows(np.arange(99), 8, 9), "stride is 9"),
        (lambda: Windows(np.arange(99), 0, 0), "stride is 0"),
        (lambda: pack_documents([np.arange(1)], 8), "No document has two tokens"),
        (lambda: pack_documents([np.arange(5)], 0), "context length is 0"),
    ],
)
def test_data_that_does_not_fit_the_context_is_refused(make: object, message: str) -> None:
    """Too little text or a bad size is one sentence with the numbers."""
    with pytest.raises(UserError, match=message):
        make()


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=60))
def test_pairs_share_rows_that_hold_both_sides(sizes):
    """Every pair once, no side overfull, and no two rows that could be one."""
    rows = best_fit_of_pairs(np.array(sizes), 20)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    for row in rows:
        assert np.array([sizes[index] for index in row]).sum(0).max() <= 20
    filled = np.array([np.array([sizes[index] for index in row]).sum(0) for row in rows])
    together = (filled[:, None] + filled[None] <= 20).all(-1)
    assert not together[~np.eye(len(rows), dtype=bool)].any()


def test_examples_lie_side_by_side():
    """With their numbers, positions and beginnings; what is left is padding."""
    examples = [{"inputs": np.int32([7] * size), "kinds": np.int32([1] * size)} for size in (2, 3, 1)]
    arrays, starts = pack(examples, [[1, 2], [0]], 5)
    assert arrays["inputs"].tolist() == [[7, 7, 7, 7, 0], [7, 7, 0, 0, 0]]
    assert arrays["kinds"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert arrays["segments"].tolist() == [[1, 1, 1, 2, 0], [1, 1, 0, 0, 0]]
    assert arrays["positions"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 0, 0]]
    assert starts == [[0, 3], [0]]
