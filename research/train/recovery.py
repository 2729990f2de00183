"""Training that survives bad steps: what is a spike, when a run stops, and which batch follows a rollback.

A step without a finite loss and gradient changes nothing (`step.py`); a spike of the loss, or of the metric that
`Recovery.best` names, takes the run back to the checkpoint before it, to go on with the batches after it. All decisions
are functions of the steps' metrics, the same on every process, and of a `History` kept beside every checkpoint: a
resumed run decides as an uninterrupted one.
"""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from research.core.ranges import AtLeast0, Limit, Range
from research.train.evaluation import Best

NORMAL = 1.4826  # times the median absolute deviation is the standard deviation of normal values
MIN_DEVIATION = 0.01  # of the median: a training that has converged deviates less, and has no spikes for that


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How much a run bears before it goes back, or stops."""

    skips: Limit = 5
    """most steps in a row without a finite loss and gradient; each is skipped, and one more stops the run"""
    best: Best = ("loss", "min")
    """the metric of a step that has spikes, and whether its lowest (min) or highest (max) value is the best"""
    spike: AtLeast0 = 20.0
    """robust standard deviations from the median of the recent values to a worse one that is a spike (0: none is)"""
    window: Annotated[int, Range(2, 1_000_000)] = 100
    """how many recent values; a spike needs half of them"""
    rollbacks: Limit = 3
    """most returns to a checkpoint before a spike; one more spike stops the run"""


class Rollback(NamedTuple):
    """A return from the spike at `step` to the state after step `to`, whose next step takes the batch `batch`."""

    step: int
    to: int
    batch: int


@dataclasses.dataclass(frozen=True)
class History:
    """What decisions depend on, as of a step."""

    recent: tuple[float, ...] = ()
    """the metric's last `window` values in steps that were not skipped, oldest first"""
    skipped: int = 0
    """steps in a row, up to this one"""
    rollbacks: tuple[Rollback, ...] = ()
    """in order of time"""
    best: float | None = None
    """the lowest score of an evaluation so far"""
    stale: int = 0
    """evaluations since then"""

    def batch(self, step: int) -> int:
        """Returns the batch that a step, counted from 0, takes: its own number, but for what rollbacks left out."""
        last = next((rollback for rollback in reversed(self.rollbacks) if rollback.to <= step), Rollback(0, 0, 0))
        return step - last.to + last.batch

    def after(self, value: float, *, skipped: bool, window: int) -> "History":
        """Returns the history with one step more."""
        if skipped:
            return dataclasses.replace(self, skipped=self.skipped + 1)
        return dataclasses.replace(self, recent=(*self.recent[1 - window :], value), skipped=0)

    def evaluated(self, score: float | None) -> "History":
        """Returns the history with an evaluation more; the lower its score, the better; None where it has none."""
        if score is not None and (self.best is None or score < self.best):
            return dataclasses.replace(self, best=score, stale=0)
        return dataclasses.replace(self, stale=self.stale + 1)

    def rollback(self, step: int, to: int) -> Rollback:
        """Returns the rollback from a spike at `step`, counted from 1, whose batch is the last one left out."""
        return Rollback(step, to, self.batch(step - 1) + 1)


def read_history(facts: Mapping[str, Any]) -> History:
    """Rebuilds a history from its JSON form, `dataclasses.asdict`."""
    rollbacks = tuple(Rollback(*rollback) for rollback in facts["rollbacks"])
    return History(tuple(facts["recent"]), facts["skipped"], rollbacks, facts.get("best"), facts.get("stale", 0))


class SpikeError(Exception):
    """A step's metric is far worse than the recent ones; the loop answers with a rollback."""

    def __init__(self, step: int, best: Best, value: float, median: float):
        metric, direction = best
        moved = "rose" if direction == "min" else "fell"
        super().__init__(
            f"the {metric.replace('_', ' ')} {moved} to {value:.4g} at step {step}, from about {median:.4g}"
        )
        self.step = step


class TooManySkipsError(Exception):
    """One step more than `skips` in a row was skipped; the loop saves the state and ends the run."""


def median_before_spike(recovery: Recovery, recent: tuple[float, ...], value: float) -> float | None:
    """Returns the median of the recent values where `value` is a spike among them, else None.

    A spike is higher than all of them and than median + spike x 1.4826 x median absolute deviation; where the highest
    value is the best, as far below.
    """
    worse = 1 if recovery.best[1] == "min" else -1  # the sign of a change for the worse
    # The first test is the cheapest and ends the matter for nearly every step.
    if (
        not recovery.spike
        or 2 * len(recent) < recovery.window
        or worse * value <= max(worse * other for other in recent)
    ):
        return None
    median = statistics.median(recent)
    deviation = NORMAL * statistics.median(abs(other - median) for other in recent)
    deviation = max(deviation, MIN_DEVIATION * abs(median))
    is_spike = deviation > 0 and worse * value > worse * median + recovery.spike * deviation
    return median if is_spike else None
