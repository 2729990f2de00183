"""Evaluation of a classifier of two classes with one logit: loss, accuracy, F1, ROC; beside two baselines."""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Integer

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, columns, constant_results, linear_baseline
from research.evaluate.calibration import calibration_of, calibration_sums
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

ROC_POINTS = 200  # of the curve that a report draws


@dataclasses.dataclass(frozen=True)
class BinaryEvaluator(EvaluatedSplit):
    """Class 0 or 1 for each example of a split, by one logit."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""

        def baselines() -> Table:
            train, labels = columns(data, self.split, "labels")
            linear = linear_baseline(data, self.split, binary_metrics(), labels, lambda both: both[:, 1] - both[:, 0])
            return {**binary_baseline(train, labels), **linear}

        return build_evaluation(self, binary_metrics(), baselines, task, data, mesh, seed)


def binary_metrics() -> tuple[Metric, ...]:
    """Loss, accuracy, precision, recall and F1 of class 1 at probability one half, ROC and calibration.

    Reads predictions["logits"], batch["labels"] (0 or 1) and batch["mask"], all [batch]; raises ValueError where the
    shapes of logits and labels differ.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        logits, labels, counted = predictions["logits"].astype(jnp.float32), batch["labels"], batch["mask"] > 0
        check_shapes(logits, labels)
        return {
            "nats": jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, labels), where=counted),
            "confusion": confusion_counts(labels.astype(jnp.int32), (logits > 0).astype(jnp.int32), counted, 2),
            "calibration": calibration_sums(jax.nn.sigmoid(logits), labels == 1, counted),
        }

    def compute(state: Tree) -> Results:
        confusion, count = state["confusion"], state["confusion"].sum()
        scores = precision_recall_f1(confusion[1, 1], confusion[:, 1].sum(), confusion[1].sum())
        return {
            "loss": float(ratio(state["nats"], count, np.nan)),
            "accuracy": float(ratio(np.trace(confusion), count, np.nan)),
            **{name: float(value) for name, value in scores.items()},
            "calibration": calibration_of(state["calibration"]),
        }

    def gather(predictions: Arrays, batch: Arrays) -> Tree:
        labels = jnp.where(batch["mask"] > 0, batch["labels"], -1)
        return ((predictions["logits"], labels),)

    def compute_auc(chunks: Tree) -> Results:
        scores, labels = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
        scores, positive = scores[labels >= 0], labels[labels >= 0] == 1
        return {"roc_auc": roc_auc(scores, positive), "roc_curve": roc_curve(scores, positive)}

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


def roc_curve(scores: Float[np.ndarray, " batch"], positive: Bool[np.ndarray, " batch"]) -> dict[str, list[float]]:
    """The rates of false and of true positives at falling thresholds, from (0, 0) to (1, 1), 200 points at most.

    Empty unless both classes are there (Fawcett, "An introduction to ROC analysis", 2006, algorithm 1).

    >>> roc_curve(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    {'false_positive_rate': [0.0, 0.0, 0.5, 1.0], 'true_positive_rate': [0.0, 0.5, 1.0, 1.0]}
    """
    names = ("false_positive_rate", "true_positive_rate")
    if positive.all() or not positive.any():
        return {name: [] for name in names}
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.append(0, np.cumsum(positive[order])[last_of_ties])
    found = np.append(0, 1 + last_of_ties)
    rates = np.stack([(found - true) / (~positive).sum(), true / positive.sum()])
    # Points at equal distances along the curve; the ends are among them.
    along = rates.sum(0)
    kept = np.unique(np.searchsorted(along, np.linspace(0, 2, ROC_POINTS)).clip(0, len(along) - 1))
    kept = kept if len(along) > ROC_POINTS else np.arange(len(along))
    return {name: [round(float(value), 5) for value in rate[kept]] for name, rate in zip(names, rates, strict=True)}


def binary_baseline(train_labels: Integer[np.ndarray, " train"], labels: Integer[np.ndarray, " batch"]) -> Table:
    """The majority class, with the training split's class frequencies (plus one) as probabilities."""
    negatives, positives = np.bincount(train_labels, minlength=2) + 1.0
    logit = np.log(positives / negatives)
    return {"majority class": constant_results(binary_metrics(), "logits", logit, {"labels": labels})}
