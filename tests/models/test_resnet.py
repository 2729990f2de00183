"""ResNets: sizes as published, statistics beside their parameters, errors for what is no image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.errors import UserError
from research.core.shapes import Spec
from research.core.trees import flatten, match_rules
from research.models.model import Sown
from research.models.resnet import ResNet

KEY = jax.random.key(0)
SMALL = ResNet(stages=(1, 1), width=4)


@pytest.mark.parametrize(
    ("config", "shape", "outputs", "parameters"),
    [
        # torchvision 0.20, documentation of ResNet18_Weights and ResNet50_Weights: "num_params"
        (ResNet("imagenet", (2, 2, 2, 2), 64, "basic"), (1, 224, 224, 3), 1000, 11_689_512),
        (ResNet("imagenet", (3, 4, 6, 3), 64, "bottleneck"), (1, 224, 224, 3), 1000, 25_557_032),
        # He et al. 2015, table 6: 0.27 M for 20 layers, plus 2,752 for projection shortcuts instead of padding
        (ResNet("cifar", (3, 3, 3), 16, "basic"), (1, 32, 32, 3), 10, 272_474),
    ],
)
def test_has_as_many_parameters_as_published(config, shape, outputs, parameters):
    """Learned parameters (without running averages) of ResNet-18, ResNet-50 and the CIFAR ResNet-20."""
    model = config.build(Spec(outputs))
    params = jax.eval_shape(model.init, KEY, {"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)})
    learned = {path: leaf for path, leaf in flatten(params).items() if not path.endswith(("mean", "variance"))}
    assert sum(leaf.size for leaf in learned.values()) == parameters
    match_rules(model.sharding, params, what="sharding")


def test_stages_double_the_channels():
    """The kernels of each stage show its channels, and the head sees the last."""
    model = ResNet(width=8).build(Spec(10))
    params = jax.eval_shape(model.init, KEY, {"inputs": jnp.zeros((1, 28, 28, 1))})
    shapes = [params[f"stage_{stage}_block_0"]["conv_1"]["kernel"].shape for stage in range(3)]
    assert shapes == [(3, 3, 8, 8), (3, 3, 16, 16), (3, 3, 32, 32)]
    assert params["head"]["kernel"].shape == (32, 10)


def test_blocks_start_as_their_shortcuts():
    """With the last scales at zero, only the stem and the shortcuts decide the first outputs."""
    model = SMALL.build(Spec(3))
    inputs = jax.random.normal(KEY, (2, 8, 8, 1))
    params = model.init(KEY, {"inputs": inputs})
    changed = jax.tree.map(lambda leaf: leaf, params)
    changed["stage_1_block_0"]["conv_0"]["kernel"] = changed["stage_1_block_0"]["conv_0"]["kernel"] + 1.0
    np.testing.assert_array_equal(
        model.apply(params, {"inputs": inputs})[0], model.apply(changed, {"inputs": inputs})[0]
    )
    changed["stage_1_block_0"]["shortcut"]["kernel"] = changed["stage_1_block_0"]["shortcut"]["kernel"] + 1.0
    assert (model.apply(params, {"inputs": inputs})[0] != model.apply(changed, {"inputs": inputs})[0]).any()


def test_training_returns_a_statistic_for_every_running_average():
    """(sum, weight) pairs stand at the paths of `mean` and `variance`, and nowhere else; evaluation returns none."""
    model = SMALL.build(Spec(3))
    inputs = jax.random.normal(KEY, (2, 8, 8, 1))
    params = model.init(KEY, {"inputs": inputs})
    _, sown = model.apply(params, {"inputs": inputs}, train=True, key=KEY)
    sums = jax.tree.map(lambda pair: pair[0], sown.statistics, is_leaf=lambda node: isinstance(node, tuple))
    averages = {path: leaf for path, leaf in flatten(params).items() if path.endswith(("/mean", "/variance"))}
    assert {path: leaf.shape for path, leaf in flatten(sums).items()} == {p: x.shape for p, x in averages.items()}
    assert model.apply(params, {"inputs": inputs})[1] == Sown()


def test_shifting_the_image_leaves_the_scores_nearly_alone():
    """Convolutions and global pooling do not care where in a black frame a shape is, up to the strides."""
    model = SMALL.build(Spec(3))
    image = jnp.zeros((1, 20, 20, 1)).at[:, 6:12, 6:12].set(jax.random.normal(KEY, (1, 6, 6, 1)))
    params = model.init(KEY, {"inputs": image})
    scores, shifted = (model.apply(params, {"inputs": x})[0] for x in (image, jnp.roll(image, 2, axis=1)))
    np.testing.assert_allclose(scores, shifted, rtol=1e-4, atol=1e-6)


def test_a_table_is_refused_with_a_sentence():
    """Examples that are not images name their shape and the way out."""
    with pytest.raises(UserError, match=r"found examples of shape \(14,\): choose data with images"):
        SMALL.build(Spec(2)).init(KEY, {"inputs": jnp.zeros((1, 14))})
