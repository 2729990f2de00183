"""The MLP of a transformer block, plain or gated (Shazeer 2020, GLU variants improve transformer)."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from research.core.mesh import BATCH_AXES, constrain
from research.models.layers.dense import ROWS, Dense

ActivationKind = Literal["gelu", "exact_gelu", "relu", "silu", "swiglu", "geglu"]
GATES: dict[str, Callable[[Array], Array]] = {"swiglu": jax.nn.silu, "geglu": jax.nn.gelu}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": jax.nn.gelu,  # its approximation by tanh, as in GPT-2 (Hendrycks & Gimpel 2016)
    "exact_gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def widened(
    dense: Callable[..., nn.Module], x: Float[Array, "*batch width"], activation: ActivationKind
) -> Float[Array, "*batch mlp_dim"]:
    """Returns what is inside the MLP, from the layers `up` and, if gated, `gate` that `dense(name=...)` makes."""
    hidden = dense(name="up")(x)
    if activation in GATES:
        return hidden * GATES[activation](dense(name="gate")(x))
    return ACTIVATIONS[activation](hidden)


class FeedForward(nn.Module):
    """Widens to `mlp_dim`, applies the non-linearity, projects back to the input's width."""

    mlp_dim: int
    activation: ActivationKind
    bias: bool
    dropout: float
    kernel_init: Initializer
    output_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "batch length width"], train: bool) -> Float[Array, "batch length width"]:
        hidden = widened(partial(Dense, self.mlp_dim, self.bias, self.kernel_init), x, self.activation)
        hidden = constrain(hidden, BATCH_AXES, "context", "tensor")
        output = Dense(x.shape[-1], self.bias, self.output_init, ROWS, name="down")(hidden)
        return nn.Dropout(self.dropout, deterministic=not train)(output)
