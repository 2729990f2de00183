"""Evaluation of a classifier of two classes with one logit: loss, accuracy, F1, ROC-AUC; beside the majority class."""

import dataclasses
import operator

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Integer

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, columns, constant_results
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import (
    Arrays,
    Metric,
    Results,
    check_shapes,
    confusion_counts,
    precision_recall_f1,
    ratio,
)
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class BinaryEvaluator(EvaluatedSplit):
    """Class 0 or 1 for each example of a split, by one logit."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""

        def baselines() -> Table:
            return binary_baseline(*columns(data, self.split, "labels"))

        return build_evaluation(self, binary_metrics(), baselines, task, data, mesh, seed)


def binary_metrics() -> tuple[Metric, ...]:
    """Loss, accuracy, precision, recall and F1 of class 1 at probability one half, and the ROC-AUC.

    Reads predictions["logits"], batch["labels"] (0 or 1) and batch["mask"], all [batch]; raises ValueError where the
    shapes of logits and labels differ.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        logits, labels, counted = predictions["logits"].astype(jnp.float32), batch["labels"], batch["mask"] > 0
        check_shapes(logits, labels)
        return {
            "nats": jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, labels), where=counted),
            "confusion": confusion_counts(labels.astype(jnp.int32), (logits > 0).astype(jnp.int32), counted, 2),
        }

    def compute(state: Tree) -> Results:
        confusion, count = state["confusion"], state["confusion"].sum()
        scores = precision_recall_f1(confusion[1, 1], confusion[:, 1].sum(), confusion[1].sum())
        return {
            "loss": float(ratio(state["nats"], count, np.nan)),
            "accuracy": float(ratio(np.trace(confusion), count, np.nan)),
            **{name: float(value) for name, value in scores.items()},
        }

    def gather(predictions: Arrays, batch: Arrays) -> Tree:
        labels = jnp.where(batch["mask"] > 0, batch["labels"], -1)
        return ((predictions["logits"], labels),)

    def compute_auc(chunks: Tree) -> Results:
        scores, labels = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
        return {"roc_auc": roc_auc(scores[labels >= 0], labels[labels >= 0] == 1)}

    # The state of the ROC-AUC is a tuple of chunks, so that merging never copies what was gathered before.
    return (
        Metric(("loss", "accuracy", "precision", "recall", "f1"), measure, compute),
        Metric(("roc_auc",), gather, compute_auc, merge=operator.add),
    )


def roc_auc(scores: Float[np.ndarray, " batch"], positive: Bool[np.ndarray, " batch"]) -> float:
    """Probability that a positive example scores above a negative one, a tie counting half; exact.

    The Mann-Whitney statistic from mid-ranks (Hanley and McNeil, 1982); NaN unless both classes are there.

    >>> roc_auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    _, inverse, ties = np.unique(scores, return_inverse=True, return_counts=True)
    rank_sum = (np.cumsum(ties) - (ties - 1) / 2)[inverse][positive].sum()
    positives, negatives = positive.sum(), (~positive).sum()
    return float(ratio(rank_sum - positives * (positives + 1) / 2, positives * negatives, np.nan))


def binary_baseline(train_labels: Integer[np.ndarray, " train"], labels: Integer[np.ndarray, " batch"]) -> Table:
    """The majority class, with the training split's class frequencies (plus one) as probabilities."""
    negatives, positives = np.bincount(train_labels, minlength=2) + 1.0
    logit = np.log(positives / negatives)
    return {"majority class": constant_results(binary_metrics(), "logits", logit, {"labels": labels})}
