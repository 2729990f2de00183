"""ResNet and MLP agree with their definitions in PyTorch: outputs, gradients and running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from research.core import trees
from research.core.shapes import Spec
from research.models.mlp import MLP
from research.models.resnet import ResNet
from research.tasks.task import Loss, WeightedSum, with_sown
from research.train.step import update_statistics

pytestmark = pytest.mark.peer

CLASSES = 5
RESNETS = {
    "cifar-basic": (ResNet("cifar", stages=(1, 2), width=8), (12, 12, 3)),
    "imagenet-bottleneck": (ResNet("imagenet", stages=(1, 1), width=8, block="bottleneck"), (33, 35, 3)),
}


def torch_resnet(config, params, images, train):
    """He et al. 2015 in PyTorch, channels first, on {path: tensor}; in training it updates the running statistics."""

    def convolve(x, name, stride=1):
        kernel = params[f"{name}/kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def normalise(x, name):
        mean, variance, scale, bias = (params[f"{name}/{part}"] for part in ("mean", "variance", "scale", "bias"))
        return functional.batch_norm(x, mean, variance, scale, bias, training=train, momentum=0.1, eps=1e-5)

    def block(x, name, stride):
        strides = (stride, 1) if config.block == "basic" else (1, stride, 1)
        shortcut = x
        for index, each in enumerate(strides):
            x = normalise(convolve(x, f"{name}/conv_{index}", each), f"{name}/norm_{index}")
            x = x if index == len(strides) - 1 else x.relu()
        if f"{name}/shortcut/kernel" in params:
            shortcut = normalise(convolve(shortcut, f"{name}/shortcut", stride), f"{name}/shortcut_norm")
        return (x + shortcut).relu()

    imagenet = config.stem == "imagenet"
    x = normalise(convolve(images.permute(0, 3, 1, 2), "stem", 2 if imagenet else 1), "stem_norm").relu()
    if imagenet:
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage, depth in enumerate(config.stages):
        for index in range(depth):
            x = block(x, f"stage_{stage}_block_{index}", 2 if stage > 0 and index == 0 else 1)
    return x.mean((2, 3)) @ params["head/kernel"] + params["head/bias"]


def torch_mlp(config, params, rows):
    for index in range(len(config.hidden)):
        rows = torch.tanh(rows @ params[f"hidden_{index}/kernel"] + params[f"hidden_{index}/bias"])
    return rows @ params["output/kernel"] + params["output/bias"]


def initial(config, shape):
    """Returns the model, inputs, and parameters away from their initial zeros and ones, so that each matters."""
    model = config.build(Spec(CLASSES))
    inputs = jax.random.normal(jax.random.key(1), (6, *shape))
    rng = np.random.default_rng(0)

    def disturb(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        return jnp.exp(noise / 4) if path.endswith("variance") else leaf + (0 if path.endswith("kernel") else noise / 4)

    return model, inputs, trees.map_with_path(disturb, jax.jit(model.init)(jax.random.key(0), {"inputs": inputs}))


def as_tensors(params):
    tensors = {path: torch.tensor(np.asarray(leaf)) for path, leaf in trees.flatten(params).items()}
    for path, tensor in tensors.items():
        tensor.requires_grad_(not path.endswith(("mean", "variance")))
    return tensors


def compare(model, inputs, params, tensors, expected, train):
    """Asserts that outputs agree, and so do the gradients of the sum of their squares, of all that learns."""

    def objective(params):
        outputs, _ = model.apply(params, {"inputs": inputs}, train=train)
        return jnp.square(outputs).sum(), outputs

    (_, outputs), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    np.testing.assert_allclose(outputs, expected.detach(), atol=1e-4, rtol=1e-4)
    expected.square().sum().backward()
    for path, gradient in trees.flatten(gradients).items():
        grad = tensors[path].grad
        assert (grad is None) == model.variables(path), path
        if grad is not None:
            np.testing.assert_allclose(gradient, grad, atol=1e-4 * float(grad.abs().max()), err_msg=path)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", RESNETS)
def test_resnet_agrees(name, train):
    """Same weights, same pictures: equal scores and gradients, by running statistics and by the batch's own."""
    config, shape = RESNETS[name]
    model, images, params = initial(config, shape)
    tensors = as_tensors(params)
    expected = torch_resnet(config, tensors, torch.tensor(np.asarray(images)), train)
    compare(model, images, params, tensors, expected, train)


def test_running_statistics_agree():
    """A step moves means and variances as PyTorch does, but for the variance: PyTorch keeps n / (n - 1) of ours."""
    config, shape = RESNETS["cifar-basic"]
    model, images, params = initial(config, shape)
    tensors = as_tensors(params)
    torch_resnet(config, tensors, torch.tensor(np.asarray(images)), True)
    sown = jax.jit(lambda params: model.apply(params, {"inputs": images}, train=True)[1])(params)
    none = Loss(jnp.float32(0), jnp.float32(0))
    statistics = with_sown(none, sown, jnp.ones(len(images))).statistics
    is_mean = {"is_leaf": lambda node: isinstance(node, WeightedSum)}
    positions = trees.flatten(jax.tree.map(lambda mean: mean.weight, statistics, **is_mean))
    before, after = trees.flatten(params), trees.flatten(update_statistics(params, statistics, 0.9))
    assert len(positions) == sum(path.endswith(("mean", "variance")) for path in before)
    for path, n in positions.items():
        moved = (after[path] - 0.9 * before[path]) * (n / (n - 1) if path.endswith("variance") else 1)
        np.testing.assert_allclose(0.9 * before[path] + moved, tensors[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_mlp_agrees():
    """Same weights, same rows: equal outputs and gradients."""
    config = MLP(hidden=(16, 8), activation="tanh")
    model, rows, params = initial(config, (7,))
    tensors = as_tensors(params)
    compare(model, rows, params, tensors, torch_mlp(config, tensors, torch.tensor(np.asarray(rows))), True)
