"""Words as tokens: the most frequent ones of the training text, in lower case, without punctuation.

`TokenizerConfig("words", vocabulary_size=5000)` makes the tokenizer; word embeddings are learned on it.
"""

import dataclasses
import functools
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from research.core.files import write_atomic

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
UNKNOWN = "\ufffd"  # the Unicode replacement character


@dataclasses.dataclass(frozen=True)
class Words:
    """Words, the most frequent first, as ids from 1; id 0 stands for any other word.

    What is no letter separates words, but for an apostrophe inside one. Text comes back in lower case, its words
    separated by spaces, others as U+FFFD.
    """

    words: tuple[str, ...]

    @property
    def vocabulary_size(self) -> int:
        return len(self.words) + 1

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words, start=1)}

    def encode(self, text: str) -> Int32[np.ndarray, " length"]:
        return np.array([self._ids.get(word, 0) for word in words(text)], dtype=np.int32)

    def decode(self, ids: Any) -> str:
        return " ".join((UNKNOWN, *self.words)[index] for index in np.asarray(ids).tolist())

    def save(self, path: Path) -> None:
        saved = {"kind": "words", "words": self.words}
        write_atomic(Path(path), json.dumps(saved, ensure_ascii=False) + "\n")


def words(text: str) -> list[str]:
    """Returns the words of a text, in lower case."""
    return WORD.findall(text.lower().replace("\u2019", "'"))


def most_frequent(texts: Iterable[str], count: int) -> Words:
    """Makes a tokenizer of the words that occur most often; of equally frequent ones the first in the alphabet."""
    counts = Counter(word for text in texts for word in words(text))
    return Words(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:count]))
