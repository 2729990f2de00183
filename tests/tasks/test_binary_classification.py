"""Binary classification against scikit-learn, also where sigmoids saturate."""

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from research.data.dataset import Data
from research.models.mlp import MLP
from research.tasks.binary_classification import BinaryClassification
from research.tasks.task import Context, evaluation_context


def case(scale=1.0):
    rng = np.random.default_rng(0)
    inputs = scale * rng.normal(size=(9, 3)).astype(np.float32)
    batch = {"inputs": inputs, "labels": rng.integers(0, 2, 9).astype(np.int32), "mask": np.ones(9, np.float32)}
    # Two classes are still one logit.
    task = BinaryClassification().build(MLP((4,)), Data({"train": [{"inputs": inputs[0]}]}, 1, ("no", "yes")))
    return task, task.init(jax.random.key(0)), batch


def test_loss_and_metric_are_scikit_learns():
    """Log loss of the sigmoid's probabilities, and accuracy at one half."""
    task, params, batch = case()
    loss, logits = (
        task.loss(params, batch, Context(jax.random.key(1), 0, train=True)),
        task.predict(params, batch, evaluation_context(0))["logits"],
    )
    assert logits.shape == (9,)
    probabilities = 1 / (1 + np.exp(-np.float64(logits)))
    accuracy = loss.metrics["accuracy"]
    np.testing.assert_allclose(loss.sum / loss.weight, log_loss(batch["labels"], probabilities), rtol=1e-5)
    assert accuracy.sum / accuracy.weight == pytest.approx(accuracy_score(batch["labels"], probabilities > 0.5))


def test_huge_logits_stay_finite():
    """A logit of a million against its label costs a million, not infinity, and has a finite gradient."""
    task, params, batch = case(1e7)
    value, gradient = jax.value_and_grad(
        lambda params: task.loss(params, batch, Context(jax.random.key(1), 0, train=True)).sum
    )(params)
    assert np.isfinite(value) and value > 1e5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
