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


def with_mask(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the mask, one weight an example, where the records do not bring one."""
    return batch if "mask" in batch else {**batch, "mask": np.ones(len(batch["inputs"]), np.float32)}


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
        return with_mask(gather(records, order(step // BLOCK)[step % BLOCK, rows]))

    return batch


def evaluation_batches(
    records: Records, batch_size: int, limit: int | None = None, rows: slice = slice(None)
) -> Iterator[Batch]:
    """Yields the records in order, once, the last batch padded to full size with a mask of zeros; here `rows`."""
    count = len(records) if limit is None else min(limit, len(records))
    for start in range(0, count, batch_size):
        indices = np.arange(start, start + batch_size)[rows]
        batch = with_mask(gather(records, np.minimum(indices, count - 1)))
        real = (indices < count).reshape(-1, *(1,) * (batch["mask"].ndim - 1))
        yield {**batch, "mask": np.where(real, batch["mask"], 0).astype(np.float32)}


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
