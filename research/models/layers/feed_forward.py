"""The MLP of a transformer block: GELU (Hendrycks & Gimpel 2016) or SwiGLU (Shazeer 2020)."""

from typing import Literal

import flax.linen as nn
import jax
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from research.core.mesh import BATCH_AXES, constrain
from research.models.layers.dense import ROWS, Dense

ActivationKind = Literal["gelu", "swiglu"]


class FeedForward(nn.Module):
    """Widens to `hidden`, applies the non-linearity, narrows back to the input's width."""

    hidden: int
    activation: ActivationKind
    bias: bool
    dropout: float
    kernel_init: Initializer
    output_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "batch length width"], train: bool) -> Float[Array, "batch length width"]:
        hidden = Dense(self.hidden, self.bias, self.kernel_init, name="up")(x)
        if self.activation == "swiglu":
            hidden = hidden * jax.nn.silu(Dense(self.hidden, self.bias, self.kernel_init, name="gate")(x))
        else:
            hidden = jax.nn.gelu(hidden)
        hidden = constrain(hidden, BATCH_AXES, "context", "tensor")
        output = Dense(x.shape[-1], self.bias, self.output_init, ROWS, name="down")(hidden)
        return nn.Dropout(self.dropout, deterministic=not train)(output)
