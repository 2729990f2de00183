"""Ranks of one right candidate, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.evaluate.metrics import evaluate
from research.evaluate.ranking import ranking_baseline, ranking_metrics


def test_ranking_metrics_by_hand() -> None:
    """Ranks 1, 3 and, of three that tie, 2; a row of padding does not count."""
    logits = np.log(np.float32([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.1, 0.8]]))
    batch = {"targets": np.int32([0, 2, 1, 0]), "mask": np.float32([1, 1, 1, 0])}
    found = evaluate(ranking_metrics(), lambda _: {"logits": jnp.asarray(logits)}, [batch])
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.2, 1 / 3]).mean(), rel=1e-5)
    assert found["mean_reciprocal_rank"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3, rel=1e-5)
    assert found["top_10_accuracy"] == 1


def test_ranking_baseline_ranks_by_frequency() -> None:
    """More targets than are ranked at once: ranks 1 and 2 half the time each, in training and test."""
    train = np.array([3] * 5 + [1] * 3)
    results = ranking_baseline(train, np.array([3, 1] * 1500), candidates=5)["frequency"]
    assert results["mean_reciprocal_rank"] == pytest.approx(0.75, rel=1e-6)
    assert results["loss"] == pytest.approx(-np.log([6 / 13, 4 / 13]).mean(), rel=1e-6)
