"""The linear layer of every model here: one flat matrix product, whatever the leading axes.

XLA's CPU backend runs `x[b, t, d] @ w` about a third slower than the product on `x.reshape(b * t, d)`, so the leading
axes are folded first; on accelerators the reshape is free. Where a mesh splits the positions they stay unfolded: no
sharding could describe batch and positions folded into one axis when both are split.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from research.core.mesh import axis_size, multiply

Split = tuple[str | None, str | None]
COLUMNS: Split = (None, "tensor")  # each device has some of the outputs
ROWS: Split = ("tensor", None)  # each device has some of the inputs, and the products are added up
REPLICATED: Split = (None, None)


class Dense(nn.Module):
    """`inputs @ kernel + bias`, parameters `kernel` [inputs outputs] and, where `bias`, `bias` [outputs].

    `split` says which axis of the kernel the `tensor` axis of a mesh splits, as the model's sharding rules have it;
    along `fsdp` the kernel is gathered here, where it is used.
    """

    outputs: int
    bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    split: Split = COLUMNS

    @nn.compact
    def __call__(self, inputs: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        *leading, width = inputs.shape
        kernel = self.param("kernel", self.kernel_init, (width, self.outputs), jnp.float32)
        rows = inputs.reshape(-1, width) if axis_size("context") == 1 else inputs
        result = multiply(jnp.matmul, rows, kernel.astype(inputs.dtype), *self.split)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.outputs,), jnp.float32)
            result += bias.astype(inputs.dtype)
        return result.reshape(*leading, self.outputs)


def tied_logits(
    x: Float[Array, "batch length width"], embedding: Float[Array, "vocabulary width"]
) -> Float[Array, "batch length vocabulary"]:
    """Returns the products with every row of the token embedding (Press & Wolf 2017), folded as in `Dense`."""
    if axis_size("context") > 1:
        return x @ embedding.T
    return (x.reshape(-1, x.shape[-1]) @ embedding.T).reshape(*x.shape[:-1], embedding.shape[0])
