"""Promises of direct preference optimisation: it starts from indifference, and learns what is preferred."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from research.core.errors import UserError
from research.data.dataset import Data, Rows
from research.models.gpt import GPT
from research.models.wrappers.lora import BRANCH, LoRA, with_lora
from research.tasks.direct_preference import DirectPreference
from research.tasks.task import Context, evaluation_context
from research.train.optimizers import Optimizer

VOCABULARY = 12


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A tiny model with low-rank updates, as `PretrainedModel` is."""

    lora: LoRA = LoRA(rank=4)

    def build(self, spec):
        model = GPT(depth=1, width=16, heads=2, context=16).build(spec)
        return with_lora(model, self.lora) if self.lora.rank else model


@pytest.fixture
def data():
    """Two pairs in the first row, one in the second: chosen answers are 7, rejected ones 8."""
    segments = np.array([[1, 1, 1, 2, 2, 2, 3, 3, 4, 4], [1, 1, 1, 1, 2, 2, 2, 2, 0, 0]], np.int32)
    inputs = np.array([[1, 2, 3, 1, 2, 3, 4, 5, 4, 5], [6, 2, 1, 3, 6, 2, 1, 3, 0, 0]], np.int32)
    targets = np.array([[2, 3, 7, 2, 3, 8, 5, 7, 5, 8], [2, 1, 3, 7, 2, 1, 3, 8, 0, 0]], np.int32)
    weights = np.isin(targets, (7, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2, 0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 0, 1, 2, 3, 0, 0]], np.int32)
    mask = np.array([[1, 1], [1, 0]], np.float32)
    arrays = {"inputs": inputs, "targets": targets, "segments": segments, "positions": positions}
    return Data({"train": Rows({**arrays, "weights": weights, "mask": mask})}, VOCABULARY)


def test_it_starts_from_indifference_and_learns_the_preference(data) -> None:
    """At first every pair's loss is log 2; after some steps all chosen answers are favoured, on equal weights."""
    task = DirectPreference(beta=0.5).build(Adapted(), data)
    compute_loss, training = jax.jit(task.loss), Context(jax.random.key(1), 0, train=True)
    params = jax.jit(task.init)(jax.random.key(0))
    params = {**params, "token_embedding": 20 * params["token_embedding"]}  # or no update could say much
    batch = jax.tree.map(jax.numpy.asarray, data.splits["train"].gather(np.arange(2)))
    loss = compute_loss(params, batch, training)
    np.testing.assert_allclose([loss.sum, loss.weight], [3 * np.log(2), 3], rtol=1e-5)
    base = {name: branch for name, branch in params.items() if name != BRANCH}
    updates = {BRANCH: params[BRANCH]}
    optimizer = Optimizer("adam", learning_rate=0.1).build(1, updates)
    state = jax.jit(optimizer.init)(updates)

    @jax.jit
    def step(updates, state):
        gradients = jax.grad(lambda learned: task.loss({**base, **learned}, batch, training).sum)(updates)
        changes, state = optimizer.update(gradients, state, updates)
        return optax.apply_updates(updates, changes), state

    for _ in range(40):
        updates, state = step(updates, state)
    params = {**base, **updates}
    margins = jax.jit(task.predict)(params, batch, evaluation_context(0))["logits"]
    assert (np.asarray(margins)[np.asarray(batch["mask"]) > 0] > 0.5).all()
    loss = compute_loss(params, batch, training)
    assert loss.metrics["accuracy"].sum == 3 and loss.sum / loss.weight < 0.5


def test_models_without_updates_and_other_data_are_refused(data) -> None:
    """There would be nothing to measure against."""
    with pytest.raises(UserError, match="updates"):
        DirectPreference().build(Adapted(LoRA()), data)
    plain = Data({"train": Rows({"inputs": np.zeros((2, 4), np.int32)})}, VOCABULARY)
    with pytest.raises(UserError, match="no preferences"):
        DirectPreference().build(Adapted(), plain)
