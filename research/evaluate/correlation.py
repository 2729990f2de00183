"""Evaluation of one score for each text, such as a similarity: Pearson's and Spearman's correlation, and errors."""

import dataclasses
import operator

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, columns
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results
from research.evaluate.regression import regression_baseline
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class CorrelationEvaluator(EvaluatedSplit):
    """A score for each example of a split, beside the mean of the training scores."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""

        def baselines() -> Table:
            train, labels = columns(data, self.split, "labels")
            return regression_baseline(train[:, None], labels[:, None])

        return build_evaluation(self, correlation_metrics(), baselines, task, data, mesh, seed)


def correlation_metrics() -> tuple[Metric, ...]:
    """Mean squared error (the loss), mean absolute error, and Pearson's and Spearman's correlation.

    Reads predictions["outputs"], batch["labels"] and batch["mask"], all [batch examples].
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        return ((predictions["outputs"], batch["labels"].astype(jnp.float32), batch["mask"]),)

    def compute(chunks: Tree) -> Results:
        outputs, labels, mask = (
            np.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*chunks, strict=True)
        )
        outputs, labels = outputs[mask > 0], labels[mask > 0]
        return {
            "loss": float(np.mean((outputs - labels) ** 2)),
            "mean_absolute_error": float(np.mean(np.abs(outputs - labels))),
            "pearson": pearson(outputs, labels),
            "spearman": spearman(outputs, labels),
        }

    return (Metric(("loss", "mean_absolute_error", "pearson", "spearman"), measure, compute, operator.add),)


def pearson(left: Float[np.ndarray, " examples"], right: Float[np.ndarray, " examples"]) -> float:
    """Pearson's correlation; NaN where one of them is constant."""
    left, right = left - left.mean(), right - right.mean()
    scale = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / scale) if scale > 0 else float("nan")


def spearman(left: Float[np.ndarray, " examples"], right: Float[np.ndarray, " examples"]) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 100.0])), 12)
    1.0
    """
    return pearson(_mean_ranks(left), _mean_ranks(right))


def _mean_ranks(values: Float[np.ndarray, " examples"]) -> Float[np.ndarray, " examples"]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
