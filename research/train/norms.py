"""Norms of each layer's gradient and parameters, on a period of their own: which layers learn, and which run away.

A step computes them where the experiment's `norms_every` is above 0, and the monitor logs them; they are no part of
the hash chain. A layer is a block of the model: `block_3`, `encoder/block_0`, `embedding`.
"""

import re

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from research.core import trees
from research.core.shapes import Params

NORMS = "norms"  # the metric of a step, [layers 2]: gradient, parameters


def layer_of(path: str) -> str:
    """Returns the layer that a parameter is in.

    >>> [layer_of(path) for path in ("encoder/block_0/mlp/kernel", "head/kernel", "scale")]
    ['encoder/block_0', 'head', 'scale']
    """
    names = path.split("/")
    numbered = next((place for place, name in enumerate(names) if re.search(r"\d", name)), 0)
    return "/".join(names[: numbered + 1])


def layers_of(params: Params) -> list[str]:
    """Returns the layers of a tree of parameters, in the order of `layer_norms`."""
    return list(dict.fromkeys(map(layer_of, trees.flatten(params))))


def layer_norms(gradients: Params, params: Params, due: Bool[Array, ""]) -> Float[Array, "layers 2"]:
    """Returns the norms of each layer's gradient and parameters; zeros, for next to nothing, where they are not due."""
    layers = layers_of(params)

    def norms(tree: Params) -> list[Array]:
        leaves = trees.flatten(tree)
        return [
            optax.global_norm([leaf for path, leaf in leaves.items() if layer_of(path) == layer]) for layer in layers
        ]

    def measure() -> Array:
        return jnp.stack([jnp.stack(norms(gradients)), jnp.stack(norms(params))], axis=1).astype(jnp.float32)

    return jax.lax.cond(due, measure, lambda: jnp.zeros((len(layers), 2), jnp.float32))
