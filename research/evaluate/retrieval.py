"""Evaluation of embeddings of pairs: how near each text's partner is among all second texts of the split.

Beside it stands TF-IDF, which finds partners by the words that both texts have.
"""

import dataclasses
import operator
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import Mesh

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results
from research.tasks.task import Task
from research.train.evaluation import Best, Evaluation

NAMES = ("mean_reciprocal_rank", "accuracy", "top_10_accuracy")
RANKED = 256  # first texts that are ranked at once


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluator(EvaluatedSplit):
    """The partner of each first text of a split, beside TF-IDF on the whole split."""

    best: Best = ("mean_reciprocal_rank", "max")

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""
        baselines = partial(retrieval_baseline, data, self.split)
        return build_evaluation(self, retrieval_metrics(), baselines, task, data, mesh, seed)


def retrieval_metrics() -> tuple[Metric, ...]:
    """How often the nearest text, or one of the 10 nearest, of all second texts of the split is the partner; and MRR.

    Reads predictions["first"] and predictions["second"] [batch examples width], and batch["mask"] [batch examples].
    MRR is the mean of 1 / rank.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        return ((predictions["first"], predictions["second"], batch["mask"]),)

    def compute(chunks: Tree) -> Results:
        first, second, mask = (
            np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts]) for parts in zip(*chunks, strict=True)
        )
        first, second = first[mask > 0], second[mask > 0]
        return _results(first[start : start + RANKED] @ second.T for start in range(0, len(first), RANKED))

    return (Metric(NAMES, measure, compute, operator.add),)


def retrieval_baseline(data: Data, split: str) -> Table:
    """Texts as weighted words (TF-IDF, fitted on all training texts); no baseline for data without pairs of texts."""
    if not data.texts or "other" not in data.texts[split]:
        return {}
    from research.evaluate.tf_idf import TfIdf  # scipy would cost every start half a second

    train, evaluated = data.texts["train"], data.texts[split]
    words = TfIdf.fit([*train["text"], *train["other"]], longest=1)
    first, second = words.vectors(evaluated["text"]), words.vectors(evaluated["other"]).T.tocsc()
    parts = (first[start : start + RANKED] @ second for start in range(0, first.shape[0], RANKED))
    return {"TF-IDF": _results(part.toarray() for part in parts)}


def _results(parts: Iterable[Any]) -> Results:
    """Returns the metrics from the scores of first texts, some at a time, with all second texts, [part texts]."""
    ranks = np.zeros(0)
    for scores in parts:
        own = scores[np.arange(len(scores)), len(ranks) + np.arange(len(scores))]
        ranks = np.append(ranks, (scores >= own[:, None]).sum(1))  # of equal ones the worst
    values = (1 / ranks).mean(), (ranks == 1).mean(), (ranks <= 10).mean()
    return dict(zip(NAMES, map(float, values), strict=True))
