"""Pairs of words that are near each other, for the skip-gram (Mikolov et al. 2013), from any text.

`SkipGramData().build()` makes records of one pair each. A pair is a function of its position alone.
"""

import dataclasses
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Int32, Integer

from research.core.errors import UserError
from research.core.ranges import Range
from research.data.dataset import Data
from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of a word and one of its neighbours.

    A neighbour at distance d is drawn as often as in the original, which draws a new window of 1 to `window` words for
    each word: in `window + 1 - d` of the `window (window + 1)` records of a word. Records that follow each other are of
    different words. Where the text ends before the neighbour, `mask` is 0.

    Attributes:
        tokens: the text, token ids of any integer type.
        window: the largest distance, in words.
    """

    tokens: Integer[np.ndarray, " stream"]
    window: int

    def __len__(self) -> int:
        return self.tokens.size * self.window * (self.window + 1)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        batch = self.gather(np.array([range(len(self))[index]]))
        return {name: rows.reshape(()) for name, rows in batch.items()}

    def gather(self, indices: Integer[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """Returns a batch: words `inputs` and neighbours `targets`, int32 [batch], and `mask`, float32 [batch]."""
        distances = [distance for size in range(1, self.window + 1) for distance in range(1, size + 1)]
        offsets = np.array([*distances, *(-distance for distance in distances)])
        turns, centres = np.divmod(np.asarray(indices, np.int64), self.tokens.size)
        positions = centres + offsets[(turns + centres) % len(offsets)]
        return {
            "inputs": self.tokens[centres].astype(np.int32),
            "targets": self.tokens.take(positions, mode="clip").astype(np.int32),
            "mask": ((positions >= 0) & (positions < self.tokens.size)).astype(np.float32),
        }


@dataclasses.dataclass(frozen=True)
class SkipGramData:
    """Which text, and which of its words are paired. Words outside the vocabulary are left out, as if not there."""

    text: TextData = TextData(tokenizer=TokenizerConfig("words"))
    window: Annotated[int, Range(1, 1000)] = 5
    """the largest distance between the words of a pair, in words"""
    threshold: Annotated[float, Range(0, 1, above=True)] = 1e-3
    """a word of frequency f is kept with probability sqrt(threshold / f) (Mikolov et al. 2013, eq. 5)"""

    def build(self) -> Data:
        """Reads, prepares and subsamples the text; raises UserError for sizes that cannot work."""
        if self.window < 1 or self.threshold <= 0:
            raise UserError(
                f"Pairs need a window of a word or more and a threshold above 0, not {self.window} and "
                f"{self.threshold:g}: set --data.window 5 and --data.threshold 1e-3."
            )
        data = self.text.build()
        counts = word_counts(data)
        kept = np.sqrt(self.threshold * counts.sum() / np.maximum(counts, 1))
        kept[0] = 0  # words outside the vocabulary
        splits = {name: Pairs(_subsampled(name, tokens, kept), self.window) for name, tokens in data.tokens.items()}
        if empty := [name for name, pairs in splits.items() if pairs.tokens.size < 2]:
            raise UserError(f"The {empty[0]} split has no pair of frequent words: give more text.")
        sizes = {name: {**data.summary["splits"][name], "words": pairs.tokens.size} for name, pairs in splits.items()}
        return dataclasses.replace(data, splits=splits, summary={**data.summary, "splits": sizes})

    def small(self, folder: Path) -> "SkipGramData":
        """Returns the same of two short texts that it writes into the folder."""
        return dataclasses.replace(self, text=self.text.small(folder))


def word_counts(data: Data) -> Integer[np.ndarray, " vocabulary"]:
    """Returns how often each word of the vocabulary occurs in the training text, before subsampling."""
    counts = np.bincount(data.tokens["train"], minlength=data.outputs)
    counts[0] = 0
    return counts


def _subsampled(name: str, tokens: Int32[np.ndarray, " stream"], kept: np.ndarray) -> Int32[np.ndarray, " subsampled"]:
    """Keeps each word with its probability, drawn from the name of the split."""
    return tokens[np.random.default_rng(zlib.crc32(name.encode())).random(tokens.size) < kept[tokens]]
