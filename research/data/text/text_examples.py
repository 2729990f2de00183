"""Examples of labelled text as token ids with their labels, and as rows of a fixed length, packed or one a row.

`LabelledText` reads the words and `encode_*` of here turn one example into an `Example`; `rows_of` lays examples out.
Batches then hold what `research/tasks/packed_text.py` hands to the models, and `labels` and `mask` by example or token.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32

from research.core.errors import UserError
from research.data.dataset import Rows
from research.data.text.packing import best_fit, pack
from research.data.text.tokenizers import PairTokenizer

Ids = Int32[np.ndarray, " _tokens"]
NO_LABEL = -1  # of a token that carries none


@dataclasses.dataclass(frozen=True)
class Example:
    """One example before it has a place in a row.

    Attributes:
        parts: arrays of each text that has a place of its own: `inputs`, and `token_types` where there are two texts
            in it; `labels` where the tokens have labels. One part, but for pairs that are encoded apart.
        label: class number, target, or first and last position of an answer; None where it has none, or the answer is
            not in what is left of the context.
    """

    parts: tuple[Mapping[str, Ids], ...]
    label: int | float | tuple[int, int] | None = None


def encode_text(tokenizer: PairTokenizer, text: str, other: str | None, length: int) -> dict[str, Ids]:
    """Returns the arrays of a text, or of two that are read together, cut to `length` tokens."""
    encoded = tokenizer.encode_pair(text, other, length=length)
    if other is None:
        return {"inputs": encoded.ids}
    return {"inputs": encoded.ids, "token_types": encoded.token_types}


def encode_words(tokenizer: PairTokenizer, words: Sequence[str], labels: Sequence[int], length: int) -> Example:
    """Encodes words that have a label each, which the first token of a word carries; the others have none."""
    encoded = tokenizer.encode_pair(" ".join(words), length=length)
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    # By its last character, since a token may begin with the space before its word.
    word = np.searchsorted(ends, encoded.offsets[:, 1] - 1, side="right").clip(max=len(words) - 1)
    word = np.where((encoded.sources == 0) & (encoded.offsets[:, 1] > encoded.offsets[:, 0]), word, NO_LABEL)
    first = (word >= 0) & (np.insert(word[:-1], 0, NO_LABEL) != word)
    return Example(({"inputs": encoded.ids, "labels": np.where(first, np.array(labels, np.int32)[word], NO_LABEL)},))


def encode_answer(tokenizer: PairTokenizer, question: str, context: str, answer: str, length: int) -> Example:
    """Encodes a question and its context; the label is the first and the last token of the answer.

    Of an answer that stands in the context several times the first place counts. Of an empty one both are 0: the
    example's first token. Where it is not in what is left of the context there is no label.
    """
    encoded = tokenizer.encode_pair(question, context, length=length)
    parts = ({"inputs": encoded.ids, "token_types": encoded.token_types},)
    if not answer:
        return Example(parts, (0, 0))
    begin = context.find(answer)
    end = begin + len(answer)
    covering = (encoded.sources == 1) & (encoded.offsets[:, 1] > begin) & (encoded.offsets[:, 0] < end)
    places = np.flatnonzero(covering)
    if begin < 0 or not places.size or encoded.offsets[places[-1], 1] < end:
        return Example(parts)
    return Example(parts, (int(places[0]), int(places[-1])))


def rows_of(examples: Sequence[Example], length: int, *, packing: bool) -> tuple[Rows, float]:
    """Lays examples out in rows of `length`.

    Args:
        examples: of one kind.
        length: positions in a row.
        packing: several examples in a row, by best fit; else one.

    Returns:
        Rows of `inputs`, `segments`, `positions` and, as the examples have them, `token_types`, all int32 [length];
        `labels` with `mask` [length] where tokens have labels, else [examples]; `starts` int32 [examples], and for
        examples of two parts [2 examples], those of an example beside each other; `indices` int32 [examples], of
        answers: which of the examples it is. And the fraction of padding.

    Raises:
        UserError: an example is longer than a row.
    """
    sizes = [sum(part["inputs"].size for part in example.parts) for example in examples]
    if max(sizes) > length:
        raise UserError(f"An example has {max(sizes)} tokens where a row has {length}: set --data.length to more.")
    rows = best_fit(sizes, length) if packing else [[index] for index in range(len(examples))]
    parts = [part for example in examples for part in example.parts]
    each = len(examples[0].parts)
    members = [[each * index + place for index in row for place in range(each)] for row in rows]
    arrays, starts = pack(parts, members, length)
    max_examples = max(map(len, rows))
    arrays["starts"] = np.array([row + [0] * (each * max_examples - len(row)) for row in starts], np.int32)
    if "labels" in arrays:
        labelled = (arrays["segments"] > 0) & (arrays["labels"] != NO_LABEL)
        arrays["labels"] = np.where(labelled, arrays["labels"], 0)
        arrays["mask"] = labelled.astype(np.float32)
    else:
        arrays["mask"] = np.array([[1.0] * len(row) + [0.0] * (max_examples - len(row)) for row in rows], np.float32)
        labels = _labels(examples, rows, arrays["starts"][:, ::each])
        arrays.update({} if labels is None else {"labels": labels})
        if isinstance(examples[0].label, tuple):
            arrays["indices"] = np.array([row + [0] * (max_examples - len(row)) for row in rows], np.int32)
    return Rows(arrays), 1 - sum(sizes) / arrays["inputs"].size


def _labels(examples: Sequence[Example], rows: Sequence[Sequence[int]], starts: np.ndarray) -> np.ndarray | None:
    """Returns the labels by row and example, those of answers moved to where their example begins."""
    first = examples[0].label
    if first is None:
        return None
    shape = (2,) if isinstance(first, tuple) else ()
    labels = np.zeros((*starts.shape, *shape), np.float32 if isinstance(first, float) else np.int32)
    for row, members in enumerate(rows):
        for place, member in enumerate(members):
            labels[row, place] = np.asarray(examples[member].label) + (starts[row, place] if shape else 0)
    return labels
