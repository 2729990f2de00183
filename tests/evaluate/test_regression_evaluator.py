"""Regression against scikit-learn, and its baseline."""

import numpy as np
import pytest
from batches import assert_equal, padded_batches, random_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from research.evaluate.metrics import make_evaluate
from research.evaluate.regression import regression_baseline, regression_metrics

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)

counts = st.integers(2, 40)

EVALUATE = make_evaluate(regression_metrics(), lambda _, batch: batch)


@quick
@given(seed=seeds, count=counts, offset=st.sampled_from([0.0, -50.0, 1e4, 1e6]))
def test_regression_metrics_equal_scikit_learn(seed: int, count: int, offset: float) -> None:
    """MSE, MAE and R2 equal scikit-learn's, also for targets far from zero, where plain sums of squares fail."""
    rng = np.random.default_rng(seed)
    examples = {name: values + np.float32(offset) for name, values in random_examples("", count, rng).items()}
    results = EVALUATE({}, padded_batches(examples, rng))

    outputs, targets = (examples[name].astype(np.float64) for name in ("outputs", "targets"))
    expected = {
        "loss": sklearn_metrics.mean_squared_error(targets, outputs),
        "mean_absolute_error": sklearn_metrics.mean_absolute_error(targets, outputs),
        "r2": sklearn_metrics.r2_score(targets, outputs),
    }
    assert_equal(results, expected)


def test_regression_baseline_explains_nothing() -> None:
    """Where both splits have the same mean, its error is the variance and R2 is zero."""
    targets = np.array([[1.0, 10.0], [3.0, 30.0]])
    results = regression_baseline(targets, targets)["mean"]
    assert results == {"loss": pytest.approx(50.5), "mean_absolute_error": pytest.approx(5.5), "r2": pytest.approx(0)}
