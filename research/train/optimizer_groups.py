"""Several optimizers in one run: one for each pattern of parameter paths, each with its own schedule and period.

This is what two players need, such as the generator and the discriminator of a GAN: one task, whose loss stops the
right gradients, and one group for each player. A group by itself behaves as its optimizer would in a run of its own.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research.core import trees
from research.core.errors import UserError
from research.core.ranges import Count, Regex
from research.core.shapes import Params
from research.train.optimizers import LEARNING_RATE, OptimizerConfig
from research.train.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class OptimizerGroup:
    """The parameters whose paths match a pattern, and how they are updated."""

    name: str
    """names its learning rate in the log: learning_rate/NAME"""
    pattern: Regex
    """searched for in the paths of the parameters"""
    optimizer: OptimizerConfig
    schedule: Schedule | None = None
    """None: that of the experiment"""
    period: Count = 1
    """the group is updated at every so many steps; its schedule and its state count these updates alone"""

    def build(self, steps: int, params: Params, schedule: Schedule) -> optax.GradientTransformation:
        """Returns the transformation for a run of `steps` steps; on the steps between updates it gives zeros."""
        inner = self.optimizer.build(self._updates(steps), params, self.schedule or schedule)
        if self.period == 1:
            return inner
        return optax.conditionally_mask(inner, lambda step: (step + 1) % self.period == 0)

    def learning_rates(self, steps: int, schedule: Schedule) -> dict[str, optax.Schedule]:
        """Returns the optimizer's learning rates under the group's name: at each step that of the last update."""
        rates = self.optimizer.learning_rates(self._updates(steps), self.schedule or schedule)
        return {
            name.replace(LEARNING_RATE, f"{LEARNING_RATE}/{self.name}", 1): self._by_step(rate)
            for name, rate in rates.items()
        }

    def _by_step(self, rate: optax.Schedule) -> optax.Schedule:
        """Returns the rate of the last update up to a step; before the first update, that of the first."""
        return lambda step: rate(jnp.maximum((step + 1) // self.period - 1, 0))

    def _updates(self, steps: int) -> int:
        if not 1 <= self.period <= steps:
            raise UserError(
                f"The optimizer group {self.name!r} has the period {self.period}, and the run {steps} steps: "
                "give a period from 1 to the number of steps."
            )
        return steps // self.period


@dataclasses.dataclass(frozen=True)
class OptimizerGroups(OptimizerConfig):
    """Groups of parameters that are optimized apart; every parameter belongs to exactly one.

    References:
        Goodfellow et al. 2014, algorithm 1 (`period` is k); Heusel et al. 2017 for two learning rates.

    Example:
        >>> from research.train.optimizers import Optimizer
        >>> players = OptimizerGroups(
        ...     (
        ...         OptimizerGroup("generator", "^generator/", Optimizer("adam", 1e-4, b1=0.5), period=2),
        ...         OptimizerGroup("discriminator", "^discriminator/", Optimizer("adam", 4e-4, b1=0.5)),
        ...     )
        ... )
        >>> list(players.learning_rates(100, Schedule("constant")))
        ['learning_rate/generator', 'learning_rate/discriminator']
    """

    groups: tuple[OptimizerGroup, ...]

    def build(self, steps: int, params: Params, schedule: Schedule) -> optax.GradientTransformation:
        """Returns the groups' transformations side by side.

        Raises:
            UserError: a parameter that belongs to no group or to several, a group's period or patterns that do not fit.
        """
        labels = self._labels(params)
        transformations = {
            group.name: group.build(steps, _of_group(params, labels, group.name), schedule)
            for group in self.groups
            if group.name in jax.tree.leaves(labels)
        }
        return optax.partition(transformations, labels)

    def learning_rates(self, steps: int, schedule: Schedule) -> dict[str, optax.Schedule]:
        """Returns every group's learning rate."""
        return {name: rate for group in self.groups for name, rate in group.learning_rates(steps, schedule).items()}

    def multipliers(self, params: Params) -> Any:
        """Returns each parameter's factor of its group's learning rate.

        Raises:
            UserError: a parameter that belongs to no group or to several, or a group without parameters.
        """
        labels = self._labels(params)
        factors: dict[str, float] = {}
        for group in self.groups:
            part = _of_group(params, labels, group.name)
            if not jax.tree.leaves(part):
                raise UserError(
                    f"No parameter matches {group.pattern!r} of the optimizer group {group.name!r}: "
                    "correct the pattern, or leave the group out."
                )
            factors |= trees.flatten(group.optimizer.multipliers(part))
        return trees.map_with_path(lambda path, _: factors[path], params)

    def average_decay(self) -> float:
        """Returns the groups' one decay; raises UserError where they differ."""
        decays = {group.optimizer.average_decay() for group in self.groups}
        if len(decays) > 1:
            raise UserError(
                f"The optimizer groups average with the decays {sorted(decays)}, and one moving average covers all "
                "parameters: give every group the same ema."
            )
        return decays.pop()

    def _labels(self, params: Params) -> Any:
        """Returns each parameter's group by name."""
        names = [group.name for group in self.groups]
        if not names or len(set(names)) < len(names):
            raise UserError(f"The optimizer groups are called {names}: give one group or more, each a name of its own.")
        return trees.match_rules(
            [(group.pattern, group.name) for group in self.groups], params, what="optimizers (--optimizer.groups)"
        )


def _of_group(params: Params, labels: Any, name: str) -> Params:
    """Returns the parameters of a group in the form in which `optax.partition` shows them to its transformation."""
    return jax.tree.map(lambda leaf, label: leaf if label == name else optax.MaskedNode(), params, labels)
