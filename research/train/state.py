"""The state of training, one pytree: all that a step changes and a checkpoint keeps.

Randomness and data are functions of (seed, step), so the step number is all there is to save of them.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from research.core import trees
from research.core.mesh import replicated, shard
from research.core.shapes import Params
from research.train.optimizers import evaluation_params


@flax.struct.dataclass
class State:
    """Step number (int32 []), parameters, optimizer state, and the parameters' moving average where one is kept.

    The leaves are arrays, or in a tree of the same form their shapes, or their shardings.
    """

    step: Any
    params: Params
    optimizer: Any
    average: Any

    @property
    def evaluated(self) -> Params:
        """The parameters that evaluation, samples and exports use."""
        return evaluation_params(self.optimizer, self.params) if self.average is None else self.average


def new_state(params: Params, optimizer: optax.GradientTransformation, *, averaged: bool) -> State:
    """Returns the state before the first step."""
    average = jax.tree.map(jnp.copy, params) if averaged else None
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def state_sharding(mesh: Mesh, rules: Any, state: State) -> State:
    """Returns the shardings of an (abstract) state: the optimizer's moments live where their parameters live.

    A moment is a leaf whose path ends with a parameter's path and whose shape is the parameter's.
    """
    params, whole = shard(mesh, rules, state.params), replicated(mesh)
    shapes, shardings = trees.flatten(state.params), trees.flatten(params)

    def place(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((ending for ending in endings if ending in shapes), None)
        return shardings[name] if name is not None and shapes[name].shape == leaf.shape else whole

    moments = trees.map_with_path(place, state.optimizer)
    return State(whole, params, moments, None if state.average is None else params)
