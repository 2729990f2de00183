"""Classification against scikit-learn; smoothing and augmentation in training only."""

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from research.core.errors import UserError
from research.data.dataset import Data
from research.data.vision.augmentation import Augmentation
from research.models.mlp import MLP
from research.tasks.classification import Classification
from research.tasks.task import Context, evaluation_context
from research.tasks.text_classification import TextClassification

KEY = jax.random.key(1)


def case(config):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 6, 6, 1)).astype(np.uint8)
    batch = {"inputs": images, "labels": rng.integers(0, 3, 8).astype(np.int32), "mask": np.ones(8, np.float32)}
    summary = {"standardisation": {"mean": [127.0], "std": [80.0]}}
    task = config.build(MLP((4,)), Data({"train": [{"inputs": images[0]}]}, 3, summary=summary))
    return task, task.init(jax.random.key(0)), batch


def softmax(logits):
    powers = np.exp(np.float64(logits))
    return powers / powers.sum(-1, keepdims=True)


def test_loss_and_metric_are_scikit_learns():
    """Log loss of the softmax's probabilities, and accuracy of the largest."""
    task, params, batch = case(Classification())
    loss, probabilities = (
        task.loss(params, batch, Context(KEY, 0, train=True)),
        softmax(task.predict(params, batch, evaluation_context(0))["logits"]),
    )
    accuracy = loss.metrics["accuracy"]
    np.testing.assert_allclose(loss.sum / loss.weight, log_loss(batch["labels"], probabilities), rtol=1e-5)
    assert accuracy.sum / accuracy.weight == pytest.approx(accuracy_score(batch["labels"], probabilities.argmax(-1)))


def test_smoothing_mixes_in_the_uniform_cross_entropy():
    """(1 - s) x cross entropy + s x mean over classes of -log p (Szegedy et al. 2016, section 7)."""
    task, params, batch = case(Classification(label_smoothing=0.2))
    logs = np.log(softmax(task.predict(params, batch, evaluation_context(0))["logits"]))
    expected = -0.8 * logs[np.arange(8), batch["labels"]].sum() - 0.2 * logs.mean(-1).sum()
    np.testing.assert_allclose(task.loss(params, batch, Context(KEY, 0, train=True)).sum, expected, rtol=1e-5)


def test_evaluation_neither_smooths_nor_augments():
    """Outside training every option leaves the plain loss."""
    plain, params, batch = case(Classification())
    augmentation = Augmentation(crop=2, flip=True, cutout=3, mixup=0.5)
    task, _, _ = case(Classification(0.2, augmentation))
    losses = [jax.jit(task.loss) for task in (plain, task)]
    evaluated, trained = (
        [loss(params, batch, Context(KEY, 0, train)).sum for loss in losses] for train in (False, True)
    )
    assert evaluated[0] == evaluated[1]
    assert trained[0] != trained[1]


@pytest.mark.parametrize("task", [Classification(), TextClassification()])
def test_one_class_is_refused(task):
    """A model of one class is always right, and a folder or column too few shows only so."""
    one = Data({"train": [{"inputs": np.zeros((1, 4), np.int32)}]}, 1, class_names=("cat",))
    with pytest.raises(UserError, match=r"two classes or more apart, and these data have 1 \(cat\)"):
        task.build(MLP((4,)), one)


def test_mixup_couples_the_rows_of_a_batch_and_the_task_says_so():
    """The loss of one row changes with the pictures of others, under mixup only."""
    for augmentation, coupled in ((Augmentation(mixup=0.5), True), (Augmentation(flip=True, cutout=3), False)):
        task, params, batch = case(Classification(augmentation=augmentation))
        assert bool(task.coupled) == coupled
        loss = jax.jit(task.loss)
        first = {**batch, "mask": np.eye(8, dtype=np.float32)[0]}
        others = {**first, "inputs": np.concatenate([batch["inputs"][:1], 255 - batch["inputs"][1:]])}
        before, after = (loss(params, rows, Context(KEY, 0, train=True)).sum for rows in (first, others))
        assert (before != after) == coupled


def test_augmentation_follows_the_key():
    """Equal keys give equal losses; another key gives another."""
    task, params, batch = case(Classification(augmentation=Augmentation(crop=2, flip=True)))
    loss = jax.jit(task.loss)
    first, again, other = (loss(params, batch, Context(jax.random.key(seed), 0, train=True)).sum for seed in (1, 1, 2))
    assert first == again != other
