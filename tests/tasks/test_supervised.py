"""What the tasks of one label or target share: standardisation, masks, types, statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core.errors import UserError
from research.core.precision import cast
from research.core.trees import flatten
from research.data.dataset import Data
from research.models.mlp import MLP
from research.models.resnet import ResNet
from research.tasks.binary_classification import BinaryClassification
from research.tasks.classification import Classification
from research.tasks.regression import Regression
from research.tasks.supervised import standardise
from research.tasks.task import Context, WeightedSum, evaluation_context

KEY = jax.random.key(0)
TASKS = [(Regression(), "targets", 2), (BinaryClassification(), "labels", 1), (Classification(0.1), "labels", 3)]


def batch_for(name, outputs, size=6):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(outputs, 2), size).astype(np.int32)
    answers = rng.normal(size=(size, outputs)).astype(np.float32) if name == "targets" else labels
    inputs = rng.normal(2, 3, (size, 4)).astype(np.float32)
    return {"inputs": inputs, name: answers, "mask": np.ones(size, np.float32)}


@functools.cache
def build(task, name, outputs):
    """The task with its functions compiled, parameters, and a batch."""
    batch = batch_for(name, outputs)
    example = {key: value[0] for key, value in batch.items()}
    data = Data({"train": [example]}, outputs, summary={"standardisation": {"mean": [2] * 4, "std": [3] * 4}})
    task = task.build(MLP((5,)), data)
    compiled = task._replace(loss=jax.jit(task.loss), predict=jax.jit(task.predict))
    return compiled, jax.jit(task.init)(KEY), batch


@pytest.mark.parametrize("case", TASKS)
@given(split=st.sampled_from([1, 2, 3]))
@settings(max_examples=3, deadline=None)
def test_losses_of_parts_add_up_to_the_whole(case, split):
    """Sums, weights and metrics of two parts of a batch, of any sizes, are those of the batch."""
    task, params, batch = build(*case)
    parts = [{name: rows[part] for name, rows in batch.items()} for part in (slice(split), slice(split, None))]
    whole, first, second = (task.loss(params, part, Context(KEY, 0, train=True)) for part in (batch, *parts))
    added = jax.tree.map(np.add, first, second)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), added, whole)


@pytest.mark.parametrize(
    ("plain", "heavy", "outputs"),
    [
        (BinaryClassification(), BinaryClassification(class_weights=(1.0, 3.0)), 1),
        (Classification(), Classification(class_weights=(1.0, 3.0, 0.0)), 3),
    ],
)
def test_class_weights_multiply_the_losses_in_training_alone(plain, heavy, outputs):
    """An example of class 1 counts as three of it, and one of class 2 as none; an evaluation is as without."""
    (task, params, batch), (weighty, *_) = build(plain, "labels", outputs), build(heavy, "labels", outputs)
    repeats = np.array([1, 3, 0])[batch["labels"]]
    repeated = {name: np.repeat(rows, repeats, axis=0) for name, rows in batch.items()}
    training, evaluation = (Context(KEY, 0, train=train) for train in (True, False))
    np.testing.assert_allclose(
        weighty.loss(params, batch, training).sum, task.loss(params, repeated, training).sum, rtol=1e-5
    )
    assert weighty.loss(params, batch, training).weight == 6
    assert weighty.loss(params, batch, evaluation).sum == task.loss(params, batch, evaluation).sum


def test_as_many_class_weights_as_classes_are_wanted():
    """One sentence with both numbers."""
    task, params, batch = build(Classification(class_weights=(1.0, 2.0)), "labels", 3)
    with pytest.raises(UserError, match=r"--task\.class-weights are 2 weights, and the classes 3: give one each"):
        task.loss(params, batch, Context(KEY, 0, train=True))


@pytest.mark.parametrize("case", TASKS)
def test_padding_counts_for_nothing(case):
    """An example of mask 0 changes neither sums nor weights, whatever it holds."""
    task, params, batch = build(*case)
    shorter = {name: rows[:4] for name, rows in batch.items()}
    padded = {**batch, "mask": np.float32([1, 1, 1, 1, 0, 0])}
    expected, found = (task.loss(params, x, Context(KEY, 0, train=False)) for x in (shorter, padded))
    assert found.weight == 4
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, expected)


@pytest.mark.parametrize("case", TASKS)
def test_half_precision_computes_in_half_and_sums_in_float32(case):
    """With bfloat16 parameters, loss and predictions are float32 and near those of float32 parameters."""
    task, params, batch = build(*case)
    half = cast(params, "bfloat16")
    loss, exact = (
        task.loss(half, batch, Context(KEY, 0, train=False)),
        task.loss(params, batch, Context(KEY, 0, train=False)),
    )
    assert loss.sum.dtype == jnp.float32
    np.testing.assert_allclose(loss.sum, exact.sum, rtol=0.05)
    (predictions,) = task.predict(half, batch, evaluation_context(0)).values()
    assert predictions.dtype == jnp.float32
    np.testing.assert_array_equal(predictions, predictions.astype(jnp.bfloat16).astype(jnp.float32))


def test_standardisation_is_by_channel_and_passes_over_constants():
    """Pixels as bytes become (pixel - mean) / std; a channel that never varies is only shifted."""
    data = Data({}, 1, summary={"standardisation": {"mean": [10.0, 20.0], "std": [2.0, 0.0]}})
    images = np.full((1, 2, 2, 2), 30, np.uint8)
    np.testing.assert_array_equal(standardise(data, images), np.broadcast_to([10.0, 10.0], (1, 2, 2, 2)))
    np.testing.assert_array_equal(standardise(Data({}, 1), images), images.astype(np.float32))


def test_running_averages_travel_as_means():
    """A batch-normalised model's statistics are `WeightedSum`s at the paths of its variables."""
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
    task = Classification().build(ResNet(stages=(1,), width=4), Data({"train": [{"inputs": images[0]}]}, 3))
    params = jax.jit(task.init)(KEY)
    batch = {"inputs": images, "labels": np.int32([0, 1, 2, 0]), "mask": np.ones(4, np.float32)}
    statistics = jax.eval_shape(task.loss, params, batch, Context(KEY, 0, train=True)).statistics
    assert isinstance(statistics["stem_norm"]["mean"], WeightedSum)
    assert {path.rpartition("/")[0] for path in flatten(statistics)} <= flatten(params).keys()
