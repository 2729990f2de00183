"""A multilayer perceptron: dense layers with a nonlinearity between them, for tables and small images.

Layers are named `hidden_0`, `hidden_1`, ..., `output`. Kernels start from a truncated normal of variance 1 / inputs
(LeCun et al. 1998), biases from zero.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from research.core import ranges
from research.core.mesh import BATCH_AXES, constrain
from research.core.ranges import Below1, Width
from research.core.shapes import Spec
from research.models.layers.dense import ROWS, Dense
from research.models.model import Model, functional

SHARDING = (
    (r"hidden_\d+/kernel$", P("fsdp", "tensor")),
    (r"hidden_\d+/bias$", P("tensor")),
    (r"output/kernel$", P("tensor", "fsdp")),
    (r"output/bias$", P()),
)
ACTIVATIONS = {"relu": nn.relu, "gelu": nn.gelu, "silu": nn.silu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}


@dataclasses.dataclass(frozen=True)
class MLP:
    """Sizes and options of an MLP."""

    hidden: tuple[Width, ...] = (128, 128)
    """features of each hidden layer; none makes a linear model"""
    activation: Literal["relu", "gelu", "silu", "tanh", "sigmoid"] = "relu"
    dropout: Below1 = 0.0
    """fraction of each hidden layer's features dropped in training"""

    def build(self, spec: Spec) -> Model:
        """Builds the model; it flattens each example to one vector."""
        ranges.check(self, within="model")
        return functional(MLPModule(self, spec.size), SHARDING)


class MLPModule(nn.Module):
    """Any inputs, flattened, to `outputs` numbers."""

    config: MLP
    outputs: int

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch ..."], train: bool = False) -> Float[Array, "batch outputs"]:
        x = inputs.reshape(inputs.shape[0], -1)
        for index, features in enumerate(self.config.hidden):
            x = ACTIVATIONS[self.config.activation](Dense(features, name=f"hidden_{index}")(x))
            x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
            x = constrain(x, BATCH_AXES, "tensor")
        return constrain(Dense(self.outputs, split=ROWS, name="output")(x), BATCH_AXES, None)
