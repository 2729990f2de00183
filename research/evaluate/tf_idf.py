"""Texts as weighted words (TF-IDF, Spärck Jones 1972), and the nearest of known texts.

What a model of text has to beat is made of these; each is fitted on the training split alone. Imported only where a
baseline is computed, for it takes scipy along.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer
from scipy import sparse

WORD = re.compile(r"\b\w\w+\b")
COMPARED = 512  # texts compared with all others at once


@dataclasses.dataclass(frozen=True)
class TfIdf:
    """Texts as vectors of length 1: how often a text has each word or run of words, the rarer the heavier.

    As scikit-learn's: words of two characters or more in lower case; weights count * (1 + log((1 + texts) / (1 +
    texts that have it))); what training did not have is left out.

    Attributes:
        columns: the number of each word, or words with spaces between.
        rarity: of each column, the logarithm above.
        longest: words in a run.
    """

    columns: Mapping[str, int]
    rarity: Float[np.ndarray, " columns"]
    longest: int

    @classmethod
    def fit(cls, texts: Sequence[str], longest: int = 2) -> "TfIdf":
        """Learns words and their rarity."""
        frequency: Counter[str] = Counter()
        for text in texts:
            frequency.update(set(_runs(text, longest)))
        columns = {run: number for number, run in enumerate(sorted(frequency))}
        rarity = [1 + math.log((1 + len(texts)) / (1 + frequency[run])) for run in columns]
        return cls(columns, np.array(rarity), longest)

    def vectors(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Returns the texts as rows."""
        ends, columns, values = [0], [], []
        for text in texts:
            counts = Counter(run for run in _runs(text, self.longest) if run in self.columns)
            found = [self.columns[run] for run in counts]
            weights = np.fromiter(counts.values(), np.float64, len(counts)) * self.rarity[found]
            columns += found
            values.append(weights / max(np.linalg.norm(weights), 1e-12))
            ends.append(len(columns))
        return sparse.csr_matrix((np.concatenate(values), columns, ends), (len(texts), len(self.columns)))


def _runs(text: str, longest: int) -> Iterator[str]:
    words = WORD.findall(text.lower())
    for length in range(1, longest + 1):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


def nearest_texts(known: Sequence[str], asked: Sequence[str]) -> Integer[np.ndarray, " asked"]:
    """Returns which of the known texts is most like each one asked for by TF-IDF (cosine), the first of equals."""
    words = TfIdf.fit(known, longest=1)
    columns = words.vectors(known).T.tocsc()
    found = words.vectors(asked)
    parts = (found[start : start + COMPARED] @ columns for start in range(0, len(asked), COMPARED))
    return np.concatenate([np.asarray(part.argmax(axis=1)).reshape(-1) for part in parts])
