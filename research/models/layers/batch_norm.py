"""Batch normalisation whose running statistics stand in the tree of the parameters, beside scale and bias.

In training the layer normalises by the batch and sows what the running averages need as mergeable sums; the training
step moves `mean` and `variance`, which are variables of the state and have no gradient, towards them. Otherwise it
normalises by them. A model with this layer gives `functional(..., variables=is_running_statistic)`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from research.models.model import STATISTICS


def is_running_statistic(path: str) -> bool:
    """Whether the parameter at a path is a running mean or variance of this layer."""
    return path.endswith(("/mean", "/variance"))


class BatchNorm(nn.Module):
    """Normalises each channel over all other axes (Ioffe & Szegedy 2015, algorithms 1 and 2), in float32.

    Parameters, all [channels]: `scale`, `bias`, and the running statistics `mean` (0 at first) and `variance` (1).

    In training, the collection `STATISTICS` receives, at the paths of `mean` and `variance`, a pair (sum, weight) of
    [channels] and []: the sum of the inputs, or of their squared distances from the batch's mean, and the number of
    positions. Pairs of several batches add up. The variance is the biased one, by which the layer normalises.
    """

    epsilon: float = 1e-5
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, inputs: Float[Array, "*batch channels"], train: bool) -> Float[Array, "*batch channels"]:
        channels = inputs.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.param("mean", nn.initializers.zeros, (channels,), jnp.float32)
        running_variance = self.param("variance", nn.initializers.ones, (channels,), jnp.float32)
        x = inputs.astype(jnp.float32)
        if train:
            positions = tuple(range(x.ndim - 1))
            weight = jnp.float32(x.size // channels)
            total = x.sum(positions)
            mean = total / weight
            # Two passes: E[x^2] - E[x]^2 cancels where the mean is large.
            squares = jnp.square(x - mean).sum(positions)
            variance = squares / weight
            self._record("mean", total, weight)
            self._record("variance", squares, weight)
        else:
            mean, variance = running_mean, running_variance
        factor = scale.astype(jnp.float32) * jax.lax.rsqrt(variance.astype(jnp.float32) + self.epsilon)
        return ((x - mean) * factor + bias).astype(inputs.dtype)

    def _record(self, name: str, total: Float[Array, "channels"], weight: Float[Array, ""]) -> None:
        self.sow(STATISTICS, name, (total, weight), init_fn=lambda: None, reduce_fn=lambda _, new: new)
