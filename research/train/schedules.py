"""Learning-rate schedules: a factor in [0, 1] of the highest learning rate, as a function of the step."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

from research.core.errors import UserError
from research.core.ranges import Fraction, Period


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Warm-up to 1, then the shape named by `kind` down to `final`."""

    kind: Literal["constant", "cosine", "linear", "warmup_stable_decay", "step"] = "cosine"
    warmup: Period = 0
    """steps of linear warm-up"""
    final: Fraction = 0.0
    """the factor that the run ends at (cosine, linear, warmup_stable_decay)"""
    decay_fraction: Fraction = 0.2
    """fraction of the steps that warmup_stable_decay spends decaying (Hu et al. 2024)"""
    boundaries: tuple[Fraction, ...] = (0.5, 0.75)
    """fractions of the steps after which `step` multiplies the factor by `drop`"""
    drop: Fraction = 0.1

    def build(self, steps: int) -> optax.Schedule:
        """Returns step -> factor for a run of `steps` steps; step 0 is the first."""
        if self.warmup >= steps:
            raise UserError(
                f"A warm-up of {self.warmup} steps leaves nothing of {steps} steps: lower "
                "--schedule.warmup or raise --steps."
            )
        rest = steps - self.warmup
        after = self._after_warmup(rest)
        if not self.warmup:
            return after
        # The first step already learns: factor 1 / (warmup + 1), as in nanoGPT.
        warmup = optax.linear_schedule(1 / (self.warmup + 1), 1.0, self.warmup)
        return optax.join_schedules([warmup, after], [self.warmup])

    def _after_warmup(self, rest: int) -> optax.Schedule:
        match self.kind:
            case "constant":
                return optax.constant_schedule(1.0)
            case "cosine":
                return optax.cosine_decay_schedule(1.0, rest, alpha=self.final)
            case "linear":
                return optax.linear_schedule(1.0, self.final, rest)
            case "warmup_stable_decay":
                decay = max(1, round(self.decay_fraction * rest))
                return optax.linear_schedule(1.0, self.final, decay, transition_begin=rest - decay)
            case "step":
                boundaries = jnp.asarray([round(fraction * rest) for fraction in self.boundaries])
                return lambda step: self.drop ** (step >= boundaries).sum()
