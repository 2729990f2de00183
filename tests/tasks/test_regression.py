"""Regression against scikit-learn's errors."""

import jax
import numpy as np
from sklearn.metrics import mean_absolute_error, mean_squared_error

from research.data.dataset import Data
from research.models.mlp import MLP
from research.tasks.regression import Regression
from research.tasks.task import Context, evaluation_context


def test_loss_and_metric_are_scikit_learns():
    """Mean squared and absolute error over examples and outputs."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(7, 2)).astype(np.float32)
    task = Regression().build(MLP((4,)), Data({"train": [{"inputs": inputs[0]}]}, 2))
    params = task.init(jax.random.key(0))
    batch = {"inputs": inputs, "targets": targets, "mask": np.ones(7, np.float32)}
    loss, outputs = (
        task.loss(params, batch, Context(jax.random.key(1), 0, train=True)),
        task.predict(params, batch, evaluation_context(0))["outputs"],
    )
    error = loss.metrics["absolute_error"]
    np.testing.assert_allclose(loss.sum / loss.weight, mean_squared_error(targets, outputs), rtol=1e-5)
    np.testing.assert_allclose(error.sum / error.weight, mean_absolute_error(targets, outputs), rtol=1e-5)
