"""Token ids into rows of fixed length, with no loss of text: windows of one stream, or packed separate documents.

`Windows` reads one long stream at any offset; `pack_documents` fills rows so that attention and loss never cross from
one document to the next. Both are `Records` with a fast `gather(indices) -> batch`. For examples that are never cut,
`best_fit` chooses which of them go into the same row, and `pack` writes them there.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer

from research.core.errors import UserError
from research.data.dataset import Rows


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
        minimum = 2 if self.stride == self.length else self.length + 1
        if self.tokens.size < minimum:
            raise UserError(
                f"The context length is {self.length}, but the data has only {self.tokens.size} tokens where at least "
                f"{minimum} are needed; shorten the context or give more text."
            )

    def __len__(self) -> int:
        return max(0, -((self.length + 1 - self.tokens.size) // self.stride)) + 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: rows[0] for name, rows in self.gather(np.array([range(len(self))[index]])).items()}

    def gather(self, indices: Integer[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """Returns a batch of windows: inputs and targets int32 [batch length], mask float32 [batch length]."""
        starts = np.asarray(indices, dtype=np.int64)[:, None] * self.stride
        positions = starts + np.arange(self.length + 1)
        tokens = self.tokens.take(positions, mode="clip").astype(np.int32)
        inside = positions[:, 1:] < self.tokens.size
        return {
            "inputs": np.where(inside, tokens[:, :-1], 0),
            "targets": np.where(inside, tokens[:, 1:], 0),
            "mask": inside.astype(np.float32),
        }


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
    examples = [
        {name: documents[index][begin : begin + size] for name, begin in (("inputs", start), ("targets", start + 1))}
        for start, size, index in pieces
    ]
    arrays, _ = pack(examples, best_fit([size for _, size, _ in pieces], length), length)
    return Rows({**arrays, "mask": (arrays["segments"] > 0).astype(np.float32)})


def pack(
    examples: Sequence[Mapping[str, Integer[np.ndarray, " _tokens"]]], rows: Sequence[Sequence[int]], length: int
) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Writes examples side by side into rows.

    Args:
        examples: int32 arrays, those of an example all of its size; every example has the same names.
        rows: the examples of each row, whose sizes sum to at most `length`.
        length: positions in a row.

    Returns:
        The arrays by name, and `segments` (from 1 within a row, 0 for padding) and `positions` (from 0 within an
        example), all int32 [rows length]; and for each row the positions where its examples begin.

    Two examples in a row of six, of which one position is padding:

        >>> examples = [{"inputs": np.array([7, 8, 9])}, {"inputs": np.array([5, 6])}]
        >>> arrays, starts = pack(examples, rows=[[0, 1]], length=6)
        >>> arrays["inputs"].tolist()
        [[7, 8, 9, 5, 6, 0]]
        >>> arrays["segments"].tolist()
        [[1, 1, 1, 2, 2, 0]]
        >>> arrays["positions"].tolist()
        [[0, 1, 2, 0, 1, 0]]
        >>> starts
        [[0, 3]]
    """
    names = (*examples[0], "segments", "positions")
    arrays = {name: np.zeros((len(rows), length), np.int32) for name in names}
    starts: list[list[int]] = []
    for row, members in enumerate(rows):
        end = 0
        starts.append([])
        for segment, member in enumerate(members, start=1):
            starts[row].append(end)
            size = len(next(iter(examples[member].values())))
            place = (row, slice(end, end + size))
            for name, values in examples[member].items():
                arrays[name][place] = values
            arrays["segments"][place] = segment
            arrays["positions"][place] = np.arange(size)
            end += size
    return arrays, starts


def best_fit_of_pairs(sizes: Integer[np.ndarray, "examples 2"], capacity: int) -> list[list[int]]:
    """Returns rows of indices of which both sizes sum to at most `capacity`.

    As `best_fit`, in two dimensions: each example, the one with the largest size first, goes where the least room is
    left in both together.
    """
    rows: list[list[int]] = []
    rooms = np.zeros((len(sizes), 2), np.int64)
    open_rows = np.zeros(0, np.int64)
    smallest = sizes.min(0)
    for index in np.argsort(-sizes.max(1), kind="stable"):
        left = rooms[open_rows]
        fits = (left >= sizes[index]).all(1)
        if fits.any():
            row = int(open_rows[np.where(fits, left.sum(1), np.iinfo(np.int64).max).argmin()])
        else:
            row = len(rows)
            rows.append([])
            rooms[row] = capacity
            open_rows = np.append(open_rows, row)
        rows[row].append(int(index))
        rooms[row] -= sizes[index]
        if (rooms[row] < smallest).any():
            open_rows = open_rows[open_rows != row]
    return rows


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Returns rows of indices whose sizes sum to at most `capacity`, by best fit decreasing.

    The examples come largest first; each goes into the row with the least room left that still holds it, or into a new
    row. Four examples in rows of 7: the sizes 5 and 4 each start a row, 3 fits only beside 4, and 2 fills up the 5:

        >>> best_fit([3, 5, 2, 4], capacity=7)
        [[1, 2], [3, 0]]
    """
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
