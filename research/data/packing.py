"""Token ids into rows of fixed length, with no loss of text: windows of one stream, or packed separate documents.

`Windows` reads one long stream at any offset; `pack_documents` fills rows so that attention and loss never cross from
one document to the next. Both are `Records` with a fast `gather(indices) -> batch`.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer

from research.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of `length` inputs over a stream of tokens; the targets are the tokens one further.

    With `stride` 1 every offset is a window, the random windows of training. With `stride` equal to `length` every
    token but the first is a target exactly once, as evaluation needs, and the last window may be padded: there inputs
    and targets are 0 and `mask` is 0.

    Attributes:
        tokens: the stream, token ids of any integer type.
        length: positions in a window.
        stride: distance from one window to the next, 1 to `length`.

    Raises:
        UserError: the stream is too short for a window (with `stride` < `length`) or for one target, or a bad stride.
    """

    tokens: Integer[np.ndarray, " stream"]
    length: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.length:
            raise UserError(f"The stride is {self.stride}; give 1 to the context length, {self.length}.")
        least = 2 if self.stride == self.length else self.length + 1
        if self.tokens.size < least:
            raise UserError(
                f"The context length is {self.length}, but the data has only {self.tokens.size} tokens where at least "
                f"{least} are needed; shorten the context or give more text."
            )

    def __len__(self) -> int:
        return max(0, -((self.length + 1 - self.tokens.size) // self.stride)) + 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: rows[0] for name, rows in self.gather(np.array([range(len(self))[index]])).items()}

    def gather(self, indices: Integer[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """Returns a batch of windows: inputs and targets int32 [batch length], mask float32 [batch length]."""
        starts = np.asarray(indices, dtype=np.int64)[:, None] * self.stride
        places = starts + np.arange(self.length + 1)
        tokens = self.tokens.take(places, mode="clip").astype(np.int32)
        inside = places[:, 1:] < self.tokens.size
        return {
            "inputs": np.where(inside, tokens[:, :-1], 0),
            "targets": np.where(inside, tokens[:, 1:], 0),
            "mask": inside.astype(np.float32),
        }


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples held in memory as arrays with a common leading axis."""

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}

    def gather(self, indices: Integer[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """Returns a batch of examples."""
        return {name: array[indices] for name, array in self.arrays.items()}


def pack_documents(documents: Sequence[Integer[np.ndarray, " _tokens"]], length: int) -> Rows:
    """Packs documents into rows of `length` so that no example crosses from one document to the next.

    Every token but the first of its document is a target exactly once. Only documents longer than a row are cut; rows
    are filled by best fit decreasing (Ding et al. 2024, "Fewer truncations improve language modeling").

    Args:
        documents: token ids of each document.
        length: positions in a row.

    Returns:
        Rows of `inputs`, `targets`, `segments` and `positions`, int32 [length], and `mask`, float32 [length].
        Segments count from 1 within a row, positions from 0 within a segment; padding has segment and mask 0.

    Raises:
        UserError: `length` is below 1, or no document has two tokens.
    """
    if length < 1:
        raise UserError(f"The context length is {length}; give at least 1.")
    pieces = [
        (start, min(length, tokens.size - 1 - start), index)
        for index, tokens in enumerate(documents)
        for start in range(0, tokens.size - 1, length)
    ]
    if not pieces:
        raise UserError("No document has two tokens, so there is nothing to predict; give longer documents.")
    rows = _best_fit([size for _, size, _ in pieces], length)
    shape = (len(rows), length)
    names = ("inputs", "targets", "segments", "positions")
    arrays: dict[str, np.ndarray] = {name: np.zeros(shape, dtype=np.int32) for name in names}
    for row, members in enumerate(rows):
        end = 0
        for segment, member in enumerate(members, start=1):
            start, size, index = pieces[member]
            place = (row, slice(end, end + size))
            arrays["inputs"][place] = documents[index][start : start + size]
            arrays["targets"][place] = documents[index][start + 1 : start + size + 1]
            arrays["segments"][place] = segment
            arrays["positions"][place] = np.arange(size)
            end += size
    return Rows({**arrays, "mask": (arrays["segments"] > 0).astype(np.float32)})


def _best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Returns rows of indices whose sizes sum to at most `capacity`: each, largest first, where least room is left."""
    rows: list[list[int]] = []
    rows_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the sorted keys of `rows_by_room`
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        size = sizes[index]
        place = bisect.bisect_left(rooms, size)
        if place < len(rooms):
            room = rooms[place]
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                del rows_by_room[room], rooms[place]
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        if room - size not in rows_by_room:
            rows_by_room[room - size] = []
            bisect.insort(rooms, room - size)
        rows_by_room[room - size].append(row)
    return rows
