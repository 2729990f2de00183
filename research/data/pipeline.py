"""From records to batches: a batch is a pure function of (seed, step), made ahead of time by a background thread.

There is no iterator state to save: any process can make the rows of any step, and a resumed run continues with the
very batch that an uninterrupted one would have used.
"""

import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import numpy as np

from research.core.errors import UserError
from research.core.shapes import Batch
from research.data.dataset import Records
from research.data.shuffle import shuffled

T = TypeVar("T")
BLOCK = 64  # steps


def gather(records: Records, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Stacks the examples at `indices`, by the records' own vectorised `gather` where they have one."""
    if hasattr(records, "gather"):
        return records.gather(indices)
    examples = [records[int(index)] for index in indices]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def make_batch(records: Records, indices: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Returns the records at `indices` as a batch, those from `count` on as padding.

    Besides the fields of the records it holds `index`, the number of each row in the split, int32 [batch]; `real`, 1
    for the rows that exist, float32 [batch]; and `mask`, the weight of each row, or position, in the loss, which is 1
    where the records do not bring one, and 0 in padding.
    """
    batch, real = gather(records, np.minimum(indices, count - 1)), indices < count
    mask = batch.get("mask", np.ones(len(indices), np.float32))
    masked = np.where(real.reshape(-1, *(1,) * (mask.ndim - 1)), mask, 0).astype(np.float32)
    index = np.minimum(indices, count - 1).astype(np.int32)
    return {**batch, "index": index, "real": real.astype(np.float32), "mask": masked}


def training_batches(
    records: Records, *, batch_size: int, seed: int, rows: slice = slice(None)
) -> Callable[[int], Batch]:
    """Returns `batch(step)`: the records shuffled anew every epoch, `batch_size` a step, here `rows` of them.

    Raises:
        UserError: there are no records.
    """
    if not len(records):
        raise UserError("The training split is empty: give more data or change the split.")

    @functools.lru_cache(maxsize=2)  # a block of steps at once: the fixed cost of the shuffle would outlast a tiny step
    def order(block: int) -> np.ndarray:
        positions = np.arange(block * BLOCK * batch_size, (block + 1) * BLOCK * batch_size)
        return shuffled(positions, len(records), seed).reshape(BLOCK, batch_size)

    def batch(step: int) -> Batch:
        return make_batch(records, order(step // BLOCK)[step % BLOCK, rows], len(records))

    return batch


def evaluation_batches(
    records: Records, batch_size: int, limit: int | None = None, rows: slice = slice(None)
) -> Iterator[Batch]:
    """Yields the records in order, once, the last batch padded to full size; here `rows`."""
    count = len(records) if limit is None else min(limit, len(records))
    for start in range(0, count, batch_size):
        yield make_batch(records, np.arange(start, start + batch_size)[rows], count)


def prefetch(make: Callable[[int], T], start: int, stop: int, ahead: int) -> Generator[T, None, None]:
    """Yields `make(step)` for start <= step < stop, made up to `ahead` steps early by one background thread.

    An exception in `make` is raised at its step. Closing the iterator stops the thread.
    """
    ready: queue.Queue[Any] = queue.Queue(ahead)
    closed = threading.Event()

    def offer(item: Any) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        for step in range(start, stop):
            if closed.is_set():
                return
            try:
                offer((make(step), None))
            except BaseException as error:
                offer((None, error))
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item
    finally:
        closed.set()
        thread.join()
