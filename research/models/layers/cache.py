"""The key and value cache of step-by-step decoding: a Linen collection that attention layers fill and read.

The rows of a batch share slot numbers, so that every step writes all rows at one place; a shorter prompt begins at a
later slot. `research/decoding` drives it through `Model.decoding`.
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
class Slots:
    """Where the tokens of a step stand in the caches.

    Attributes:
        start: the slot of the first of these tokens; the others follow.
        first: the slot where each row's text begins; what stands before it is padding, which nothing attends to.
        capacity: the slots of a cache that is yet to be made.
    """

    start: Int[Array, ""]
    first: Int[Array, "batch"]
    capacity: int = 0

    def positions(self, length: int) -> Int[Array, "batch length"]:
        """Returns the positions of the tokens in their rows' texts; padding is at 0."""
        return jnp.maximum(self.start + jnp.arange(length) - self.first[:, None], 0)

    def mask(self, length: int, capacity: int, window: int = 0) -> Bool[Array, "batch length keys"]:
        """Each token sees its row's tokens up to itself, the last `window` of them where that is given."""
        keys, queries = jnp.arange(capacity), (self.start + jnp.arange(length))[:, None]
        seen = keys <= queries
        if window:
            seen &= keys > queries - window
        return seen & (keys >= self.first[:, None, None])


def remember(module: nn.Module, name: str, new: Shaped[Array, "batch length ..."], slots: Slots) -> Array:
    """Writes what is new into a cache of the module and returns the whole of it, [batch capacity ...]."""
    shape = (new.shape[0], slots.capacity, *new.shape[2:])
    stored = module.variable(CACHE, name, jnp.zeros, shape, new.dtype)
    stored.value = jax.lax.dynamic_update_slice_in_dim(stored.value, new, slots.start, axis=1)
    return stored.value
