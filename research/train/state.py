"""The state of training, one pytree: all that a step changes and a checkpoint keeps.

What a task calls its parameters is one tree, of which a state holds three parts: `params` learn, `variables` change
without a gradient, `fixed` stays. `partition` divides the tree by path, `State.merged` puts it together again.
Randomness and data are functions of (seed, step), so the step number is all there is to save of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from research.core import trees
from research.core.mesh import replicated, shard
from research.core.shapes import Params
from research.train.optimizers import evaluation_params


class Parts(NamedTuple):
    """Three trees without a common leaf; see `State`."""

    params: Params
    fixed: Params
    variables: Params

    @property
    def merged(self) -> Params:
        """The one tree that tasks and models see."""
        return trees.merge(*self)


Predicate = Callable[[str], bool]


def partition(tree: Params, *, fixed: Predicate, variables: Predicate) -> Parts:
    """Divides a task's tree by path: a leaf that is neither fixed nor a variable learns."""
    return Parts(
        trees.select(tree, lambda path: not fixed(path) and not variables(path)),
        trees.select(tree, lambda path: fixed(path) and not variables(path)),
        trees.select(tree, variables),
    )


@flax.struct.dataclass
class State:
    """What a step takes and gives.

    The leaves are arrays, or in a tree of the same form their shapes, or their shardings.

    Attributes:
        step: completed steps, int32 [].
        params: what learns, and alone has gradients, an optimizer state, and a moving average.
        fixed: what stays as it was at first: a teacher, a reference, the base of low-rank updates, frozen layers. A
            run stores it once, not in each checkpoint.
        variables: what changes without a gradient: running statistics, queues, momentum encoders, masks.
        optimizer: the optimizer's state.
        average: the moving average of `params`, where one is kept, else None.
    """

    step: Any
    params: Params
    fixed: Params
    variables: Params
    optimizer: Any
    average: Any

    @property
    def merged(self) -> Params:
        """The one tree that tasks and models see, as training uses it."""
        return trees.merge(self.params, self.fixed, self.variables)

    @property
    def evaluated(self) -> Params:
        """The one tree that evaluation, samples and exports use: with the moving average where one is kept."""
        params = evaluation_params(self.optimizer, self.params) if self.average is None else self.average
        return trees.merge(params, self.fixed, self.variables)

    @property
    def changing(self) -> dict[str, Any]:
        """The parts that a checkpoint keeps, by name: all but what is fixed, and what is empty."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: part for name, part in parts.items() if name != "fixed" and jax.tree.leaves(part)}


def restored(changing: dict[str, Any], fixed: Params) -> State:
    """Returns the state of `State.changing`, or of some of its parts, and what is fixed."""
    empty: dict[str, Any] = {"params": {}, "variables": {}, "optimizer": None, "average": None}
    return State(**{**empty, **changing}, fixed=fixed)


def new_state(parts: Parts, optimizer: optax.GradientTransformation, *, averaged: bool) -> State:
    """Returns the state before the first step."""
    average = jax.tree.map(jnp.copy, parts.params) if averaged else None
    return State(jnp.zeros((), jnp.int32), *parts, optimizer.init(parts.params), average)


def state_sharding(mesh: Mesh, rules: Any, state: State) -> State:
    """Returns the shardings of an (abstract) state: the optimizer's moments live where their parameters live.

    A moment is a leaf whose path ends with a parameter's path and whose shape is the parameter's.
    """
    merged, everywhere = shard(mesh, rules, state.merged), replicated(mesh)
    shapes, shardings = trees.flatten(state.params), trees.flatten(merged)

    def place(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((ending for ending in endings if ending in shapes), None)
        return shardings[name] if name is not None and shapes[name].shape == leaf.shape else everywhere

    def like(tree: Params) -> Params:
        return trees.map_with_path(lambda path, _: shardings[path], tree)

    moments, params = trees.map_with_path(place, state.optimizer), like(state.params)
    average = None if state.average is None else params
    return State(everywhere, params, like(state.fixed), like(state.variables), moments, average)
