"""ResNet (He et al. 2015), CIFAR-style and ImageNet-style, channels last.

Convolutions and strides sit where torchvision has them: the stride of a bottleneck is in its 3 x 3 convolution,
shortcuts that change shape are 1 x 1 convolutions, and padding is symmetric. Kernels start from He et al.'s normal
(fan-out); the last scale of each block starts at zero, so that the block starts as its shortcut (Goyal et al. 2017).
"""

import dataclasses
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from research.core import ranges
from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, constrain, multiply
from research.core.ranges import Depth, Width
from research.core.shapes import Spec
from research.models.layers.batch_norm import BatchNorm, is_running_statistic
from research.models.layers.dense import Dense
from research.models.model import Model, functional

IMAGES = (BATCH_AXES, None, None, None)  # where activations live, [batch height width channels]
SHARDING = (
    (r"(stem|conv_\d|shortcut)/kernel$", P(None, None, "fsdp", "tensor")),
    (r"norm(_\d)?/(scale|bias|mean|variance)$", P()),
    (r"head/kernel$", P("fsdp", "tensor")),
    (r"head/bias$", P("tensor")),
)


@dataclasses.dataclass(frozen=True)
class ResNet:
    """Sizes and options of a ResNet."""

    stem: Literal["cifar", "imagenet"] = "cifar"
    """cifar: a 3 x 3 convolution; imagenet: a 7 x 7 one and a max-pool, which leave a sixteenth of the positions"""
    stages: tuple[Depth, ...] = (1, 1, 1)
    """blocks of each stage; every stage after the first halves height and width and doubles the channels"""
    width: Width = 16
    """channels of the first stage"""
    block: Literal["basic", "bottleneck"] = "basic"
    """basic: two 3 x 3 convolutions; bottleneck: 1 x 1, 3 x 3 and 1 x 1, with four times the channels outside"""

    def build(self, spec: Spec) -> Model:
        """Builds the model for images [height width channels]."""
        ranges.check(self, within="model")
        return functional(ResNetModule(self, spec.size), SHARDING, variables=is_running_statistic)


class Convolution(nn.Module):
    """A square convolution without bias, padded so that stride 1 keeps the shape; `kernel` [size size in out]."""

    channels: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        shape = (self.size, self.size, inputs.shape[-1], self.channels)
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, shape, jnp.float32).astype(inputs.dtype)
        padding = [(self.size // 2, self.size // 2)] * 2
        convolve = partial(
            jax.lax.conv_general_dilated,
            window_strides=(self.stride, self.stride),
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        outputs = multiply(convolve, constrain(inputs, *IMAGES), kernel, None, None, None, "tensor")
        return constrain(outputs, *IMAGES)


class Block(nn.Module):
    """The sum of a shortcut and a stack of normalised convolutions."""

    kind: Literal["basic", "bottleneck"]
    channels: int
    stride: int

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch rows columns features"]:
        narrow, wide = self.channels, self.channels * (4 if self.kind == "bottleneck" else 1)
        # (channels, size, stride) of each convolution
        basic = ((narrow, 3, self.stride), (wide, 3, 1))
        bottleneck = ((narrow, 1, 1), (narrow, 3, self.stride), (wide, 1, 1))
        x = inputs
        layers = basic if self.kind == "basic" else bottleneck
        for index, (channels, size, stride) in enumerate(layers):
            last = index == len(layers) - 1
            scale_init = nn.initializers.zeros if last else nn.initializers.ones
            x = Convolution(channels, size, stride, name=f"conv_{index}")(x)
            x = BatchNorm(scale_init=scale_init, name=f"norm_{index}")(x, train)
            x = x if last else nn.relu(x)
        shortcut = inputs
        if shortcut.shape != x.shape:
            shortcut = Convolution(wide, 1, self.stride, name="shortcut")(shortcut)
            shortcut = BatchNorm(name="shortcut_norm")(shortcut, train)
        return nn.relu(x + shortcut)


class ResNetModule(nn.Module):
    """Images to class scores."""

    config: ResNet
    outputs: int

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch ..."], train: bool = False) -> Float[Array, "batch outputs"]:
        if inputs.ndim != 4:
            raise UserError(
                f"A ResNet takes images [height width channels], found examples of shape {inputs.shape[1:]}: choose "
                "data with images, or another model, such as MLP."
            )
        c = self.config
        small = c.stem == "cifar"
        x = Convolution(c.width, 3 if small else 7, 1 if small else 2, name="stem")(inputs)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train))
        if not small:
            x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage, depth in enumerate(c.stages):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                x = Block(c.block, c.width * 2**stage, stride, name=f"stage_{stage}_block_{index}")(x, train)
        return constrain(Dense(self.outputs, name="head")(x.mean((1, 2))), BATCH_AXES, None)
