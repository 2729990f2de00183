"""Optimizers and losses agree with PyTorch's, and Lion with the formula of its paper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn import functional

from research.data.dataset import Data
from research.models.mlp import MLP
from research.tasks.binary_classification import BinaryClassification
from research.tasks.classification import Classification
from research.tasks.task import Context
from research.train.optimizers import Optimizer

pytestmark = pytest.mark.peer

STEPS = 6
SHAPES = {"kernel": (6, 4), "bias": (4,)}
RNG = np.random.default_rng(0)
START = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADIENTS = [{name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(STEPS)]


def ours(config, steps=STEPS):
    """Returns the parameters after following GRADIENTS."""
    layer = {"layer": START}
    optimizer = config.build(steps, layer)
    update = jax.jit(optimizer.update)
    params, state = layer, jax.jit(optimizer.init)(layer)
    for gradients in GRADIENTS[:steps]:
        updates, state = update({"layer": gradients}, state, params)
        params = optax.apply_updates(params, updates)
    return params["layer"]


def pytorch(make, clip=np.inf, steps=STEPS):
    """Returns the parameters after following GRADIENTS; `make(kernel, bias)` builds the optimizer."""
    params = {name: torch.tensor(value, requires_grad=True) for name, value in START.items()}
    optimizer = make(params["kernel"], params["bias"])
    for gradients in GRADIENTS[:steps]:
        for name, parameter in params.items():
            parameter.grad = torch.tensor(gradients[name])
        torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in params.items()}


def groups(kernel, bias, decay):
    return [{"params": [kernel], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}]


CASES = {
    "sgd": (Optimizer("sgd", learning_rate=0.1), lambda k, b: torch.optim.SGD([k, b], lr=0.1)),
    "momentum with l2": (
        Optimizer("momentum", learning_rate=0.1, b1=0.8, l2=0.3),
        lambda k, b: torch.optim.SGD(groups(k, b, 0.3), lr=0.1, momentum=0.8),
    ),
    "adam with l2": (
        Optimizer("adam", learning_rate=0.05, b2=0.95, l2=0.3),
        lambda k, b: torch.optim.Adam(groups(k, b, 0.3), lr=0.05, betas=(0.9, 0.95)),
    ),
    "adamw": (
        Optimizer("adamw", learning_rate=0.05, b2=0.95, weight_decay=0.5),
        lambda k, b: torch.optim.AdamW(groups(k, b, 0.5), lr=0.05, betas=(0.9, 0.95)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_updates_agree(name):
    """The same gradients lead both to the same parameters; decay and l2 act on kernels and spare biases."""
    config, make = CASES[name]
    found, expected = ours(config), pytorch(make)
    for part in SHAPES:
        np.testing.assert_allclose(found[part], expected[part], rtol=1e-4, atol=1e-5)


def test_clipping_agrees():
    """Clipping by the global norm scales all gradients alike, as `clip_grad_norm_` does."""
    found = ours(Optimizer("momentum", learning_rate=0.1, clip=0.7))
    expected = pytorch(lambda k, b: torch.optim.SGD([k, b], lr=0.1, momentum=0.9), clip=0.7)
    for part in SHAPES:
        np.testing.assert_allclose(found[part], expected[part], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("steps", "tolerance"), [(1, 0.02), (STEPS, 0.1)])
def test_muon_agrees(steps, tolerance):
    """Kernels follow PyTorch's Muon, rates matched to Adam's, up to its bfloat16 and, later, our bias correction."""

    def make(kernel, _):
        return torch.optim.Muon([kernel], lr=0.1, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    found = ours(Optimizer("muon", learning_rate=0.1), steps)["kernel"] - START["kernel"]
    expected = pytorch(make, steps=steps)["kernel"] - START["kernel"]
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


def test_lion_follows_its_paper():
    """Lion (Chen et al. 2023, algorithm 2): the sign of an interpolation, decoupled decay, a slower momentum."""
    found = ours(Optimizer("lion", learning_rate=0.01, b1=0.9, b2=0.99, weight_decay=0.5))
    for part, decay in (("kernel", 0.5), ("bias", 0.0)):
        weights, momentum = START[part].astype(np.float64), 0.0
        for gradients in GRADIENTS:
            direction = np.sign(0.9 * momentum + 0.1 * gradients[part])
            weights = weights - 0.01 * (direction + decay * weights)
            momentum = 0.99 * momentum + 0.01 * gradients[part]
        np.testing.assert_allclose(found[part], weights, atol=1e-5)


def test_losses_agree():
    """Label smoothing and binary cross entropy are PyTorch's; masked examples do not count."""
    rows = {"inputs": jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32), "mask": jnp.arange(8.0) < 6}
    batch = {**rows, "mask": rows["mask"].astype(jnp.float32), "labels": jnp.arange(8) % 4}
    kernel, bias = jnp.asarray(START["kernel"][:4]), jnp.asarray(START["bias"])
    inputs, labels = torch.tensor(np.asarray(batch["inputs"][:6])), torch.tensor(np.asarray(batch["labels"][:6])).long()
    logits = inputs @ torch.tensor(np.asarray(kernel)) + torch.tensor(np.asarray(bias))
    key = jax.random.key(0)

    task = Classification(label_smoothing=0.1).build(MLP(hidden=()), Data({}, 4))
    loss = task.loss({"output": {"kernel": kernel, "bias": bias}}, batch, Context(key, 0, train=True))
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert float(loss.sum / loss.weight) == pytest.approx(expected.item(), rel=1e-5)

    task = BinaryClassification().build(MLP(hidden=()), Data({}, 1))
    batch = {**batch, "labels": batch["labels"] % 2}
    loss = task.loss({"output": {"kernel": kernel[:, :1], "bias": bias[:1]}}, batch, Context(key, 0, train=True))
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], (labels % 2).float())
    assert float(loss.sum / loss.weight) == pytest.approx(expected.item(), rel=1e-5)
