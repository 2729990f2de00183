"""A model as two pure functions, made from a Linen module in one place.

Every architecture is a file here with a frozen configuration whose `build(outputs)` returns a `Model`. Nothing
outside `research/models` sees Linen.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
from flax.core import meta
from jax.sharding import PartitionSpec
from jaxtyping import Array, Key

from research.core.shapes import Params, Tree

STATISTICS = "statistics"  # collection that layers such as batch normalisation sow (sum, weight) pairs into


class Init(Protocol):
    def __call__(self, key: Key[Array, ""], inputs: Array) -> Params:
        """Returns initial parameters for inputs of this shape and type."""
        ...


class Apply(Protocol):
    def __call__(
        self, params: Params, inputs: Array, *, train: bool = False, key: Key[Array, ""] | None = None, **extra: Any
    ) -> tuple[Array, Tree]:
        """Returns (outputs, statistics); `key` draws the dropout where `train`."""
        ...


class Model(NamedTuple):
    """`init` and `apply`, and the sharding rules of the parameters."""

    init: Init
    apply: Apply
    sharding: Sequence[tuple[str, PartitionSpec]]


class ModelConfig(Protocol):
    """A frozen dataclass of an architecture's sizes and options."""

    def build(self, outputs: int) -> Model: ...


def functional(module: nn.Module, sharding: Sequence[tuple[str, PartitionSpec]]) -> Model:
    """Turns a Linen module, called as `module(inputs, train=..., **extra)`, into a `Model`."""

    def init(key: Key[Array, ""], inputs: Array) -> Params:
        return meta.unbox(module.init(key, inputs, train=False)["params"])

    def apply(
        params: Params, inputs: Array, *, train: bool = False, key: Key[Array, ""] | None = None, **extra: Any
    ) -> tuple[Array, Tree]:
        rngs = {} if key is None else {"dropout": key}
        outputs, state = module.apply(
            {"params": params}, inputs, train=train, rngs=rngs, mutable=[STATISTICS] if train else [], **extra
        )
        return outputs, state.get(STATISTICS, {})

    return Model(init, apply, sharding)
