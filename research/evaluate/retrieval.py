"""Evaluation of embeddings of pairs: how near each text's partner is among all second texts of the split."""

import dataclasses
import operator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results
from research.tasks.task import Task
from research.train.evaluation import Best, Evaluation


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluator(EvaluatedSplit):
    """The partner of each first text of a split; there is no baseline."""

    best: Best = ("mean_reciprocal_rank", "max")

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""
        return build_evaluation(self, retrieval_metrics(), dict, task, data, mesh, seed)


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
        ranks: Any = np.concatenate([_ranks(first, second, start) for start in range(0, len(first), 256)])
        return {
            "mean_reciprocal_rank": float((1 / ranks).mean()),
            "accuracy": float((ranks == 1).mean()),
            "top_10_accuracy": float((ranks <= 10).mean()),
        }

    names = ("mean_reciprocal_rank", "accuracy", "top_10_accuracy")
    return (Metric(names, measure, compute, operator.add),)


def _ranks(first: np.ndarray, second: np.ndarray, start: int) -> np.ndarray:
    """Returns the ranks of the partners of 256 first texts, of equal ones the worst."""
    scores = first[start : start + 256] @ second.T
    own = scores[np.arange(len(scores)), start + np.arange(len(scores))]
    return (scores >= own[:, None]).sum(1)
