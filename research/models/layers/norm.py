"""Layer and root-mean-square normalisation over the last axis, computed in float32 where the inputs are narrower."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.core.precision import at_least_float32

NormKind = Literal["layer", "rms"]


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019), with `scale` and, for "layer", `bias`."""

    kind: NormKind = "layer"
    bias: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, inputs: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        width = inputs.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        x = inputs.astype(at_least_float32(inputs.dtype))
        if self.kind == "layer":
            x -= x.mean(-1, keepdims=True)
        x *= jnp.reciprocal(jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon))
        x *= scale.astype(x.dtype)
        if self.kind == "layer" and self.bias:
            x += self.param("bias", nn.initializers.zeros, (width,), jnp.float32).astype(x.dtype)
        return x.astype(inputs.dtype)
