"""Evaluation of a classifier: loss, accuracy, F1 by class, confusion matrix; beside the majority class and
logistic regression.

Labels are one for each example, [batch], or one for each text of a packed row, [batch examples].
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Integer

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, columns, constant_results, linear_baseline, measured
from research.evaluate.calibration import calibration_of, calibration_sums
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import (
    Arrays,
    Metric,
    Results,
    confusion_counts,
    cross_entropy,
    flattened,
    precision_recall_f1,
    ratio,
)
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class ClassificationEvaluator(EvaluatedSplit):
    """One class for each example of a split."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""
        metrics = tuple(flattened(metric) for metric in classification_metrics(data.outputs))

        def baselines() -> Table:
            train, labels = columns(data, self.split, "labels")
            return {
                **classification_baseline(train, labels, data.outputs),
                **word_weights_baseline(data, self.split),
                **linear_baseline(data, self.split, classification_metrics(data.outputs), labels),
            }

        return build_evaluation(self, metrics, baselines, task, data, mesh, seed)


def classification_metrics(classes: int, top_k: Sequence[int] = (5,)) -> tuple[Metric, ...]:
    """Loss, accuracy, top-k accuracy, confusion matrix, calibration; precision, recall, F1 (macro, micro, per class).

    Reads predictions["logits"] [batch classes], batch["labels"] (integers) and batch["mask"] [batch]. Rows of the
    confusion matrix are true classes, columns predicted ones. Macro averages run over all classes, absent ones too.

    Args:
        classes: number of classes.
        top_k: the k to report; those not below `classes` are left out, as they are always 1.
    """
    kept = [k for k in top_k if k < classes]

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        logits, labels, counted = predictions["logits"], batch["labels"], batch["mask"] > 0
        _, ranked = jax.lax.top_k(logits, max([1, *kept]))
        return {
            "nats": jnp.sum(cross_entropy(logits, labels), where=counted),
            "hits_by_rank": jnp.sum(ranked == labels[:, None], axis=0, where=counted[:, None]),
            "confusion": confusion_counts(labels, ranked[:, 0], counted, classes),
            "calibration": calibration_sums(
                jax.nn.softmax(logits.astype(jnp.float32)).max(-1), ranked[:, 0] == labels, counted
            ),
        }

    def compute(state: Tree) -> Results:
        confusion, count = state["confusion"], state["confusion"].sum()
        hits, predicted, actual = np.diag(confusion), confusion.sum(0), confusion.sum(1)
        results = {
            "loss": float(ratio(state["nats"], count, np.nan)),
            "accuracy": float(ratio(hits.sum(), count, np.nan)),
            **{f"top_{k}_accuracy": float(ratio(state["hits_by_rank"][:k].sum(), count, np.nan)) for k in kept},
        }
        micro = precision_recall_f1(hits.sum(), predicted.sum(), actual.sum())
        for name, values in precision_recall_f1(hits, predicted, actual).items():
            results[f"{name}_macro"] = float(values.mean())
            results[f"{name}_micro"] = float(micro[name])
            results[f"{name}_per_class"] = values.tolist()
        return {**results, "confusion_matrix": confusion.tolist(), "calibration": calibration_of(state["calibration"])}

    averages = (f"{name}_{average}" for name in ("precision", "recall", "f1") for average in ("macro", "micro"))
    return (Metric(("loss", "accuracy", *(f"top_{k}_accuracy" for k in kept), *averages), measure, compute),)


def classification_baseline(
    train_labels: Integer[np.ndarray, " train"], labels: Integer[np.ndarray, " batch"], classes: int
) -> Table:
    """The majority class, with the training split's class frequencies (plus one) as probabilities."""
    logits = np.log(np.bincount(train_labels, minlength=classes) + 1.0)
    return {"majority class": constant_results(classification_metrics(classes), "logits", logits, {"labels": labels})}


def word_weights_baseline(data: Data, split: str) -> Table:
    """TF-IDF of words and pairs of words with logistic regression, where each text has a class; else no baseline."""
    if not data.texts or not isinstance(data.texts["train"]["label"][0], int):
        return {}
    # Here, since scipy would cost every start half a second.
    from research.evaluate.logistic_regression import LogisticRegression
    from research.evaluate.tf_idf import TfIdf

    train, evaluated = data.texts["train"], data.texts[split]
    read = [name for name in ("text", "other") if name in train]
    train_texts, texts = (
        ["\n".join(parts) for parts in zip(*(of[name] for name in read), strict=True)] for of in (train, evaluated)
    )
    labels, classes = np.array(evaluated["label"]), len(data.class_names)
    words = TfIdf.fit(train_texts)
    model = LogisticRegression.fit(words.vectors(train_texts), np.array(train["label"]), classes)
    logits = model.logits(words.vectors(texts))
    return {
        "TF-IDF and logistic regression": measured(
            classification_metrics(classes), "logits", logits, {"labels": labels}
        )
    }
