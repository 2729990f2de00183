"""What the evaluations of written texts share: words decoded from what a model writes, n-grams, and baselines of pairs.

`translation.py` and `summarisation.py` give the scores.
"""

import operator
from collections import Counter
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from research.core.shapes import Tree
from research.data.dataset import Data
from research.data.text.paired_text import boundary_ids, text_before
from research.evaluate.baselines import Table
from research.evaluate.metrics import Arrays, Metric, Results

Scores = Callable[[Sequence[str], Sequence[str]], Results]  # of the texts written, and those expected


def written_metric(data: Data, names: tuple[str, ...], scores: Scores) -> Metric:
    """Scores of the texts that a model writes, rows of one pair each.

    Reads predictions["tokens"], batch["targets"] and batch["mask"] [batch length].
    """
    _, end = boundary_ids(data.tokenizer)

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        counted = (batch["mask"] > 0).any(1)[:, None]
        return ((jnp.where(counted, predictions["tokens"], -1), jnp.where(counted, batch["targets"], -1)),)

    def compute(chunks: Tree) -> Results:
        rows = [pair for chunk in chunks for pair in zip(*chunk, strict=True) if pair[1][0] >= 0]
        written, expected = ([text_before(data, pair[side], end) for pair in rows] for side in (0, 1))
        return scores(written, expected)

    return Metric(names, measure, compute, operator.add)


def pairs_baselines(data: Data, split: str, scores: Scores, max_pairs: int | None = None) -> Table:
    """Returns the source as it is, and the target of the training source most like it by TF-IDF of words.

    Measured on the first `max_pairs` pairs of the split.
    """
    from research.evaluate.tf_idf import nearest_texts  # scipy would cost every start half a second

    train = data.texts["train"]
    evaluated = {name: texts[:max_pairs] for name, texts in data.texts[split].items()}
    nearest = nearest_texts(train["source"], evaluated["source"])
    return {
        "copy of the source": scores(evaluated["source"], evaluated["target"]),
        "nearest training pair": scores([train["target"][index] for index in nearest], evaluated["target"]),
    }


def ngram_counts(units: Sequence[str], order: int) -> Counter[Sequence[str]]:
    """Counts the runs of so many words, or of characters of a string.

    >>> ngram_counts("abab", 2)
    Counter({'ab': 2, 'ba': 1})
    """
    make: Callable[[Sequence[str]], Sequence[str]] = str if isinstance(units, str) else tuple
    return Counter(make(units[start : start + order]) for start in range(len(units) - order + 1))
