"""Preferences, by hand."""

import numpy as np
import pytest

from research.core.mesh import MeshConfig
from research.data.dataset import Data, Rows
from research.evaluate.preference import PreferenceEvaluator
from research.tasks.task import Task

DRAW = np.random.default_rng(0)


def test_preferences_are_measured_beside_indifference():
    """By hand, on pairs that are there; a tie counts half, and the baseline is what margins of zero get."""
    margins, mask = DRAW.normal(size=(4, 3)).astype(np.float32), np.float32([[1, 1, 0]] * 4)
    margins[0, 0], margins[:, 2] = 0, np.nan
    rows = Rows({"inputs": np.zeros((4, 5), np.int32), "margins": margins, "mask": mask})

    def results(scale):
        task = Task(None, None, lambda params, batch, context: {"logits": scale * batch["margins"]})
        data = Data({"train": rows, "validation": rows}, outputs=3)
        return PreferenceEvaluator(batch_size=3).build(task, data, MeshConfig(data=1).build(), seed=0)

    found, counted = results(1).measure({}), np.float64(margins[mask > 0])
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-counted)).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(((counted > 0).sum() + 0.5) / 8)
    assert found["margin"] == pytest.approx(counted.mean(), rel=1e-5)
    assert results(0).measure({}) == pytest.approx(results(0).baselines()["indifference"])
