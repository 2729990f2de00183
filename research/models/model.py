"""A model as two pure functions, made from a Linen module in one place.

Every architecture is a file here with a frozen configuration whose `build(outputs)` returns a `Model`. Nothing
outside `research/models` sees Linen; `change_layer` lets a notebook try an idea on one layer.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
from flax.core import meta
from jax.sharding import PartitionSpec
from jaxtyping import Array, Key

from research.core.errors import UserError
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


def change_layer(model: Model, pattern: str, change: Callable[..., Any]) -> Model:
    """Returns the model with `change(layer, *inputs)` in place of `layer(*inputs)`, wherever a layer's path matches.

    Args:
        model: what to alter; it stays as it is.
        pattern: a regular expression, searched for in paths such as `block_0/mlp` or `block_0/mlp/up`.
        change: a pure function; where it never calls the original layer, that layer's parameters do not exist.

    Raises:
        UserError: at `init`, where the model has no such layer.
    """
    paths: set[str] = set()

    def intercept(layer: Any, inputs: Any, options: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        paths.add(path)
        if context.method_name == "__call__" and re.search(pattern, path):
            return change(layer, *inputs, **options)
        return layer(*inputs, **options)

    def init(key: Key[Array, ""], inputs: Array) -> Params:
        with nn.intercept_methods(intercept):
            params = model.init(key, inputs)
        if not any(re.search(pattern, path) for path in paths):
            nearest = ", ".join(difflib.get_close_matches(pattern, paths, n=3, cutoff=0))
            raise UserError(f"No layer's path matches {pattern!r}: the nearest are {nearest}.")
        return params

    def apply(params: Params, inputs: Array, **options: Any) -> tuple[Array, Tree]:
        with nn.intercept_methods(intercept):
            return model.apply(params, inputs, **options)

    return Model(init, apply, model.sharding)
