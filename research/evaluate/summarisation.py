"""Evaluation of summaries: ROUGE of the texts that the model writes, as rouge-score, and its token loss."""

import dataclasses
import re
from collections.abc import Sequence
from functools import partial

from jax.sharding import Mesh

from research.data.dataset import Data
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.masked import token_metrics
from research.evaluate.metrics import f1
from research.evaluate.written_text import ngram_counts, pairs_baselines, written_metric
from research.tasks.task import Task
from research.train.evaluation import Best, Evaluation


@dataclasses.dataclass(frozen=True)
class SummarisationEvaluator(EvaluatedSplit):
    """Summaries that the model writes of the sources of a split."""

    best: Best = ("rouge_l", "max")

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""
        metrics = (*token_metrics(), written_metric(data, ("rouge_1", "rouge_2", "rouge_l"), rouge))
        baselines = partial(pairs_baselines, data, self.split, rouge, self.limit)
        return build_evaluation(self, metrics, baselines, task, data, mesh, seed)


def rouge(written: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L, 0 to 1: the mean F1 over the texts (Lin 2004), as rouge-score without stemming.

    Words are runs of a to z and digits, in lower case; the longest common subsequence is that of whole texts.

    Raises:
        ValueError: the numbers of texts differ.
    """
    sums = {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    for hypothesis, reference in zip(written, expected, strict=True):
        words, right = (re.findall(r"[a-z0-9]+", text.lower()) for text in (hypothesis, reference))
        for order in (1, 2):
            grams, right_grams = ngram_counts(words, order), ngram_counts(right, order)
            sums[f"rouge_{order}"] += f1((grams & right_grams).total(), grams.total(), right_grams.total())
        sums["rouge_l"] += f1(common_subsequence(words, right), len(words), len(right))
    return {name: value / max(len(written), 1) for name, value in sums.items()}


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Returns the length of the longest sequence of words that both have in this order.

    >>> common_subsequence("the quick brown fox".split(), "the brown dog fox".split())
    3
    """
    best = [0] * (len(right) + 1)
    for word in left:
        above = best
        best = [0]
        for index, other in enumerate(right):
            best.append(above[index] + 1 if word == other else max(above[index + 1], best[index]))
    return best[-1]
