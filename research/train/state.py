"""The state of training, one pytree: all that a step changes and a checkpoint keeps.

Randomness and data are functions of (seed, step), so the step number is all there is to save of them.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from research.core.mesh import replicated, shard
from research.core.shapes import Params


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
        return self.params if self.average is None else self.average


def new_state(params: Params, optimizer: optax.GradientTransformation, *, averaged: bool) -> State:
    """Returns the state before the first step."""
    average = jax.tree.map(jnp.copy, params) if averaged else None
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def state_sharding(mesh: Mesh, rules: Any, state: State, optimizer: optax.GradientTransformation) -> Any:
    """Returns the shardings of an (abstract) state: the optimizer's moments live where their parameters live."""
    params = shard(mesh, rules, state.params)
    whole = replicated(mesh)
    moments = optax.tree.map_params(
        optimizer,
        lambda moment, sharding: moment if _is_absent(moment) else sharding,
        state.optimizer,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=_is_absent,
    )
    return State(whole, params, moments, None if state.average is None else params)


def _is_absent(moment: Any) -> bool:
    """Whether another of several optimizers keeps the moment of this parameter (`optax.partition`)."""
    return isinstance(moment, optax.MaskedNode)
