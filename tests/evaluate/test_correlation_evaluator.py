"""Correlations against SciPy."""

import numpy as np
import pytest
from batches import measured
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from research.evaluate.correlation import correlation_metrics, pearson, spearman

DRAW = np.random.default_rng(0)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=20))
def test_correlations_are_scipys(pairs):
    """With ties; NaN where one side is constant."""
    left, right = np.float64(list(zip(*pairs, strict=True)))
    if np.ptp(left) and np.ptp(right):
        assert pearson(left, right) == pytest.approx(stats.pearsonr(left, right).statistic, abs=1e-9)
        assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-9)
    else:
        assert np.isnan(pearson(left, right))


def test_scores_are_measured_without_padding():
    """Over all batches at once."""
    outputs, labels = (DRAW.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    mask = np.float32(DRAW.random((4, 3)) < 0.8)
    found = measured(correlation_metrics(), {"outputs": outputs}, {"labels": labels, "mask": mask})
    left, right = outputs[mask > 0].astype(float), labels[mask > 0].astype(float)
    assert found["spearman"] == pytest.approx(stats.spearmanr(left, right).statistic)
    assert found["pearson"] == pytest.approx(stats.pearsonr(left, right).statistic)
    assert found["loss"] == pytest.approx(((left - right) ** 2).mean(), rel=1e-6)
