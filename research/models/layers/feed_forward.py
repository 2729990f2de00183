"""The MLP of a transformer block: GELU (Hendrycks & Gimpel 2016) or SwiGLU (Shazeer 2020)."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from research.core.mesh import BATCH_AXES, constrain
from research.models.layers.dense import ROWS, Dense

ActivationKind = Literal["gelu", "swiglu"]


def widened(
    dense: Callable[..., nn.Module], x: Float[Array, "*batch width"], activation: ActivationKind
) -> Float[Array, "*batch hidden"]:
    """Returns what is inside the MLP, from the layers `up` and, for "swiglu", `gate` that `dense(name=...)` makes."""
    hidden = dense(name="up")(x)
    if activation == "swiglu":
        return hidden * jax.nn.silu(dense(name="gate")(x))
    return jax.nn.gelu(hidden)


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
        hidden = widened(partial(Dense, self.hidden, self.bias, self.kernel_init), x, self.activation)
        hidden = constrain(hidden, BATCH_AXES, "context", "tensor")
        output = Dense(x.shape[-1], self.bias, self.output_init, ROWS, name="down")(hidden)
        return nn.Dropout(self.dropout, deterministic=not train)(output)
