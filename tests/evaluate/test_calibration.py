"""Calibration against a count by hand over random predictions, and the ROC curve against scikit-learn."""

import numpy as np
import pytest
from batches import padded_batches, random_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn import metrics as sklearn_metrics

from research.core.errors import UserError
from research.evaluate.binary import ROC_POINTS, binary_metrics, roc_curve
from research.evaluate.calibration import BINS
from research.evaluate.classification import classification_metrics
from research.evaluate.metrics import make_evaluate
from research.runs import schema

EVALUATE = {
    "binary": make_evaluate(binary_metrics()[:1], lambda _, batch: batch),
    "classification": make_evaluate(classification_metrics(4), lambda _, batch: batch),
}


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 40), kind=st.sampled_from(["binary", "classification"]))
def test_bins_hold_the_predictions_of_their_probability(seed: int, count: int, kind: str) -> None:
    """Count, mean probability and fraction that is right of each bin, and their error (Guo et al., 2017, eq. 3)."""
    rng = np.random.default_rng(seed)
    examples = random_examples(kind, count, rng)
    found = EVALUATE[kind]({}, padded_batches(examples, rng))["calibration"]
    logits, labels = examples["logits"], examples["labels"]
    if kind == "binary":
        probability, right = expit(logits), labels == 1
    else:
        probability, right = softmax(logits, -1).max(-1), logits.argmax(-1) == labels
    places = np.minimum((probability * BINS).astype(int), BINS - 1)
    bins = [places == place for place in np.unique(places)]
    assert found["count"] == [int(members.sum()) for members in bins]
    np.testing.assert_allclose(found["probability"], [probability[members].mean() for members in bins], atol=2e-5)
    np.testing.assert_allclose(found["right"], [right[members].mean() for members in bins], atol=2e-5)
    distances = [abs(probability[members].sum() - right[members].sum()) for members in bins]
    assert found["error"] == pytest.approx(sum(distances) / count, abs=2e-5)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), count=st.sampled_from([2, 7, 150, 3000]))
def test_the_roc_curve_is_scikit_learns(seed: int, count: int) -> None:
    """All its points lie on scikit-learn's, also where some are left out; the area under them is that of the curve."""
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.arange(count) % 2 == 0)
    scores = (rng.normal(size=count) + positive).round(2)
    found = roc_curve(scores, positive)
    across, up = (np.array(found[name]) for name in ("false_positive_rate", "true_positive_rate"))
    theirs = sklearn_metrics.roc_curve(positive, scores, drop_intermediate=False)
    expected = {(round(float(x), 5), round(float(y), 5)) for x, y in zip(*theirs[:2], strict=True)}
    assert set(zip(across, up, strict=True)) <= expected
    assert len(across) <= ROC_POINTS + 1 and (across[0], up[0], across[-1], up[-1]) == (0, 0, 1, 1)
    assert sklearn_metrics.auc(across, up) == pytest.approx(sklearn_metrics.auc(*theirs[:2]), abs=2e-3)


def test_one_class_has_no_curve() -> None:
    """As it has no area."""
    assert roc_curve(np.array([0.5, 0.1]), np.array([True, True]))["false_positive_rate"] == []


@pytest.mark.parametrize(
    "odd",
    [
        {"roc_curve": {"false_positive_rate": ["<b>"], "true_positive_rate": [0]}},
        {"roc_curve": {"false_positive_rate": [0]}},
        {"calibration": {"count": [1.5], "probability": [0], "right": [0], "error": 0}},
        {"calibration": 5},
    ],
)
def test_odd_results_of_a_run_file_are_damage(odd: dict) -> None:
    """What a report draws is numbers in lists."""
    with pytest.raises(UserError, match="here is damaged"):
        schema.check(odd, schema.results, "here")
