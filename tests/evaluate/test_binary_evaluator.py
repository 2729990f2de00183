"""Two classes against scikit-learn, and their baseline."""

import numpy as np
import pytest
from batches import assert_equal, padded_batches, random_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as sklearn_metrics

from research.evaluate.binary import binary_baseline, binary_metrics
from research.evaluate.metrics import make_evaluate

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)

counts = st.integers(2, 40)

EVALUATE = make_evaluate(binary_metrics(), lambda _, batch: batch)


@quick
@given(seed=seeds, count=counts)
def test_binary_metrics_equal_scikit_learn(seed: int, count: int) -> None:
    """Every binary metric equals scikit-learn's, the ROC-AUC to the last digits in spite of ties."""
    rng = np.random.default_rng(seed)
    examples = random_examples("binary", count, rng)
    results = EVALUATE({}, padded_batches(examples, rng))

    logits, labels = examples["logits"].astype(np.float64), examples["labels"]
    predicted = (logits > 0).astype(int)
    scores = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average="binary", zero_division=0)
    expected = {
        "loss": sklearn_metrics.log_loss(labels, expit(logits)),
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        **dict(zip(("precision", "recall", "f1"), scores[:3], strict=True)),
    }
    assert_equal(results, expected)
    assert_equal(results, {"roc_auc": sklearn_metrics.roc_auc_score(labels, logits)}, rtol=1e-13)


def test_binary_baseline_predicts_the_majority_and_ranks_nothing() -> None:
    """The rare class is never predicted, and the ROC-AUC of a constant is exactly one half."""
    train, labels = np.array([0, 0, 0, 0, 0, 0, 0, 1]), np.array([0, 0, 0, 1])
    results = binary_baseline(train, labels)["majority class"]
    assert (results["accuracy"], results["recall"], results["roc_auc"]) == (0.75, 0.0, 0.5)
    assert results["loss"] == pytest.approx(-np.log([0.8, 0.8, 0.8, 0.2]).mean(), rel=1e-6)  # (count + 1) / 10
