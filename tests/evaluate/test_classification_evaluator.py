"""Classification against scikit-learn, and its baselines."""

import jax.numpy as jnp
import numpy as np
import pytest
from batches import CLASSES, assert_equal, padded_batches, random_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sklearn_metrics

from research.core.mesh import MeshConfig
from research.data.dataset import Data
from research.data.text.text_examples import Example, rows_of
from research.evaluate.classification import (
    ClassificationEvaluator,
    classification_baseline,
    classification_metrics,
    word_weights_baseline,
)
from research.evaluate.metrics import make_evaluate
from research.tasks.task import Task

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)

counts = st.integers(2, 40)


EVALUATE = make_evaluate(classification_metrics(CLASSES, top_k=(1, 2, 3, 9)), lambda _, batch: batch)


@quick
@given(seed=seeds, count=counts)
def test_classification_metrics_equal_scikit_learn(seed: int, count: int) -> None:
    """Every classification metric equals scikit-learn's on the examples that count."""
    rng = np.random.default_rng(seed)
    examples = random_examples("classification", count, rng)
    results = EVALUATE({}, padded_batches(examples, rng))

    logits, labels, classes = examples["logits"].astype(np.float64), examples["labels"], list(range(CLASSES))
    predicted = logits.argmax(-1)
    expected = {
        "loss": sklearn_metrics.log_loss(labels, softmax(logits, axis=-1), labels=classes),
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "confusion_matrix": sklearn_metrics.confusion_matrix(labels, predicted, labels=classes),
    }
    for k in (1, 2, 3):
        expected[f"top_{k}_accuracy"] = sklearn_metrics.top_k_accuracy_score(labels, logits, k=k, labels=classes)
    for suffix, average in (("macro", "macro"), ("micro", "micro"), ("per_class", None)):
        scores = sklearn_metrics.precision_recall_fscore_support(
            labels, predicted, labels=classes, average=average, zero_division=0
        )
        expected |= {
            f"{name}_{suffix}": score for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True)
        }
    assert_equal(results, expected)
    named = results.keys() - {"calibration"}
    assert named == expected.keys(), "a k that is not below the number of classes is left out"


def test_classification_baseline_predicts_the_majority_with_its_frequency() -> None:
    """Accuracy is the majority's share of the evaluated labels; the loss comes from the training frequencies."""
    train, labels = np.array([0, 1, 1, 1, 1, 1, 1]), np.array([1, 1, 0, 2])
    results = classification_baseline(train, labels, classes=3)["majority class"]
    assert results["accuracy"] == 0.5
    assert results["loss"] == pytest.approx(-np.log([0.7, 0.7, 0.2, 0.1]).mean(), rel=1e-6)  # (count + 1) / 10
    assert all(isinstance(value, float) for value in results.values())


def test_classes_of_texts_have_a_baseline():
    """Words that decide the class are found; the table has the names of the metrics."""
    texts = {split: {"text": ["good film", "bad film"] * 20, "label": [1, 0] * 20} for split in ("train", "test")}
    table = word_weights_baseline(Data({}, outputs=2, class_names=("no", "yes"), texts=texts), "test")
    assert table["TF-IDF and logistic regression"]["accuracy"] == 1
    assert {"loss", "f1_macro"} <= set(table["TF-IDF and logistic regression"])


def test_other_texts_have_none():
    """Numbers, and data without texts."""
    numbers = {"text": ["a"], "label": [0.5]}
    assert word_weights_baseline(Data({}, outputs=1, texts={"train": numbers, "test": numbers}), "test") == {}
    assert word_weights_baseline(Data({}, outputs=1), "test") == {}


def test_an_evaluator_measures_packed_text_beside_its_baselines():
    """Single labels, one for each example, in both rows of the table."""
    examples = [Example(({"inputs": np.int32([2, 9, 3])},), number % 3) for number in range(20)]
    rows, _ = rows_of(examples, 8, packing=True)
    texts = {"text": [f"word{number % 3}" for number in range(20)], "label": [number % 3 for number in range(20)]}
    data = Data({"train": rows, "test": rows}, 3, ("a", "b", "c"), texts={"train": texts, "test": texts})

    def predict(params, batch, context):
        return {"logits": jnp.where(jnp.arange(3) == 0, 1.0, 0.0) + jnp.zeros((*batch["mask"].shape, 1))}

    evaluation = ClassificationEvaluator("test", batch_size=4).build(
        Task(None, None, predict), data, MeshConfig(data=1).build(), seed=0
    )
    assert evaluation.measure({})["accuracy"] == pytest.approx(7 / 20)
    table = evaluation.baselines()
    assert table["majority class"]["accuracy"] == pytest.approx(7 / 20)
    assert table["TF-IDF and logistic regression"]["accuracy"] == 1
