"""Relative position biases (Raffel et al. 2020, T5): what a distance in the text adds to the scores of attention.

Each head has one number for each bucket of distances: near ones apart, far ones together, logarithmically.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer


class RelativePositions(nn.Module):
    """A table `embedding` [buckets heads], looked up by the distance from a query to a key."""

    heads: int
    buckets: int
    distance: int
    """from here on all distances share the last bucket"""
    both_sides: bool
    """whether keys after a query have buckets of their own; otherwise they count as distance 0"""

    @nn.compact
    def __call__(
        self, queries: Int[Array, "#batch length"], keys: Int[Array, "#batch keys"], width: int
    ) -> Float[Array, "#batch heads length keys"]:
        """Returns the biases for queries and keys at these positions; `width` is that of the residual stream."""
        normal = nn.initializers.normal(width**-0.5)
        table = self.param("embedding", normal, (self.buckets, self.heads), jnp.float32)
        sided = self.buckets // 2 if self.both_sides else self.buckets
        bucket_of = jnp.asarray(buckets_of_distances(sided, self.distance))
        ahead = keys[:, None, :] - queries[:, :, None]
        far = jnp.abs(ahead) if self.both_sides else jnp.maximum(-ahead, 0)
        bucket = bucket_of[jnp.minimum(far, self.distance)]
        if self.both_sides:
            bucket += sided * (ahead > 0)
        return jnp.moveaxis(table[bucket], -1, 1)


def buckets_of_distances(buckets: int, distance: int) -> Integer[np.ndarray, " distances"]:
    """Returns the bucket of each distance from 0 to `distance`.

    The first half of the buckets are one distance each; the rest grow logarithmically up to `distance`, the last
    bucket holding all beyond. Computed in float32 step by step as the published models were, whose rounding counts.
    """
    exact = buckets // 2
    far = np.arange(distance + 1)
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(distance / exact))
    logarithmic = exact + (ratio * np.float32(buckets - exact)).astype(np.int32)
    return np.where(far < exact, far, np.minimum(logarithmic, buckets - 1)).astype(np.int32)
