"""Permutation importance, and the linear baselines of tables and images, on data whose answer is known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from research.core.mesh import MeshConfig
from research.data.dataset import Data, Rows
from research.evaluate import logistic_regression
from research.evaluate.baselines import linear_baseline
from research.evaluate.binary import BinaryEvaluator
from research.evaluate.classification import classification_metrics
from research.evaluate.importance import column_importance
from research.evaluate.logistic_regression import linear_logits
from research.tasks.task import Task

RNG = np.random.default_rng(0)


def table(rows: int) -> Rows:
    """A number that decides, a category of two features that does not, and a label."""
    number = RNG.normal(size=rows)
    category = np.eye(2)[RNG.integers(0, 2, rows)]
    inputs = np.column_stack([number, category]).astype(np.float32)
    return Rows({"inputs": inputs, "labels": (number > 0.1).astype(np.int32)})


DATA = Data(
    {"train": table(400), "validation": table(150), "test": table(50)},
    outputs=1,
    class_names=("no", "yes"),
    columns={"number": (0, 1), "category": (1, 3)},
)
TASK = Task(None, None, lambda params, batch, context: {"logits": params["scale"] * (batch["inputs"][:, 0] - 0.1)})


def test_the_column_that_decides_is_the_important_one() -> None:
    """On the validation split, by the metric that decides, the same numbers every time; other splits have none."""
    config, mesh = BinaryEvaluator(batch_size=64, best=("accuracy", "max")), MeshConfig().build()
    importance = config.build(TASK, DATA, mesh, 0).importance
    params = {"scale": jnp.float32(50)}
    found = importance(params)
    assert found == importance(params)
    assert 0.3 < found["number"] < 0.7 and found["category"] == 0
    by_loss = dataclasses.replace(config, best=("loss", "min")).build(TASK, DATA, mesh, 0).importance(params)
    assert by_loss["number"] > 1 > by_loss["category"] == 0
    assert dataclasses.replace(config, split="test").build(TASK, DATA, mesh, 0).importance(params) == {}


def test_tables_of_many_columns_get_no_importance() -> None:
    """Nobody waits at the end of a run for a thousand evaluations."""
    asked: list[int] = []

    def measure(records: Rows, rows: int) -> dict:
        asked.append(rows * len(records))
        return {"loss": 0.0}

    records = Rows({"inputs": np.zeros((5000, 200), np.float32)})
    for count, calls in ((0, 0), (50, 51), (101, 0)):
        asked.clear()
        column_importance(measure, records, {str(n): (n, n + 1) for n in range(count)}, ("loss", "min"))
        assert len(asked) == calls


def test_the_linear_baseline_is_scikit_learns() -> None:
    """On the features of a table less their mean, of all rows where they are few."""
    logits = linear_logits(DATA, "test")
    assert logits is not None
    train, test = (DATA.splits[name].arrays for name in ("train", "test"))
    mean = train["inputs"].mean(0)
    theirs = SklearnLogisticRegression(tol=1e-8).fit(train["inputs"] - mean, train["labels"])
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], theirs.decision_function(test["inputs"] - mean), atol=0.02)
    baselines = BinaryEvaluator(split="test").build(TASK, DATA, MeshConfig().build(), 0).baselines()
    assert baselines["logistic regression"]["accuracy"] > 0.95 > baselines["majority class"]["accuracy"]


def test_images_are_seen_small_and_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large images squares are averaged, and of many, or large ones, some are learned from: a bounded time."""
    labels = np.arange(60) % 3
    images = RNG.integers(0, 60, (60, 70, 50, 3)).astype(np.uint8)
    images[np.arange(60), labels * 20] += 150
    data = Data({"train": Rows({"inputs": images, "labels": labels.astype(np.int32)})}, outputs=3)
    fitted: list[tuple[int, ...]] = []
    fit = logistic_regression.LogisticRegression.fit

    def noted(features: np.ndarray, *arguments: object) -> object:
        fitted.append(features.shape)
        return fit(features, *arguments)

    monkeypatch.setattr(logistic_regression.LogisticRegression, "fit", noted)
    monkeypatch.setattr(logistic_regression, "MAX_NUMBERS", 30 * 23 * 16 * 3)
    found = linear_baseline(data, "train", classification_metrics(3), labels.astype(np.int32))
    assert found["logistic regression"]["accuracy"] > 0.9
    assert fitted == [(30, 23 * 16 * 3)]


def test_what_is_no_table_and_no_image_has_no_linear_baseline() -> None:
    """Token ids are no features, and neither are numbers of other data."""
    tokens = Data({"train": Rows({"inputs": np.ones((4, 8), np.int32), "labels": np.ones(4, np.int32)})}, outputs=2)
    assert linear_logits(tokens, "train") is None
    assert linear_logits(Data({"train": Rows({"targets": np.ones((4, 1))})}, outputs=1), "train") is None
