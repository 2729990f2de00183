"""The key and value cache of step-by-step decoding: a Linen collection that attention layers write and read.

A step writes the tokens of all rows at the same positions of the cache; a shorter prompt is padded on the left, so that
its text begins at a later position. `research/decoding` uses it through `Model.decoding`.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

CACHE = "cache"


@partial(jax.tree_util.register_dataclass, data_fields=("start", "first"), meta_fields=("capacity",))
@dataclasses.dataclass(frozen=True)
class CachePositions:
    """Where the tokens of a step are written in the caches.

    Attributes:
        start: the position in the cache of the first of these tokens; the others follow.
        first: the position in the cache where each row's text begins; before it is padding, which nothing attends to.
        capacity: the length of a cache that is yet to be made.
    """

    start: Int[Array, ""]
    first: Int[Array, "batch"]
    capacity: int = 0

    def text_positions(self, length: int) -> Int[Array, "batch length"]:
        """Returns the positions of the tokens in their rows' texts, from 0; padding is at 0."""
        return jnp.maximum(self.start + jnp.arange(length) - self.first[:, None], 0)

    def mask(self, length: int, capacity: int, window: int = 0) -> Bool[Array, "batch length keys"]:
        """Returns what each token attends to: its row's tokens up to itself, the last `window` of them where given."""
        keys, queries = jnp.arange(capacity), (self.start + jnp.arange(length))[:, None]
        seen = keys <= queries
        if window:
            seen &= keys > queries - window
        return seen & (keys >= self.first[:, None, None])


def remember(
    module: nn.Module, name: str, new: Shaped[Array, "batch length ..."], cache_positions: CachePositions
) -> Array:
    """Writes the new entries into a cache of the module and returns the full cache, [batch capacity ...]."""
    shape = (new.shape[0], cache_positions.capacity, *new.shape[2:])
    stored = module.variable(CACHE, name, jnp.zeros, shape, new.dtype)
    stored.value = jax.lax.dynamic_update_slice_in_dim(stored.value, new, cache_positions.start, axis=1)
    return stored.value
