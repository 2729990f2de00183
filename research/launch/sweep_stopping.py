"""Which job of a sweep is stopped early: one that is worse than the median of the others at the same step.

`--stop-bad` asks for it. While `research.launch.sweep_jobs` runs a job it reads the evaluations of its run here; a run
that is stopped gets a tag, and is not continued by the same command.

References:
    Golovin et al. 2017, Google Vizier: A Service for Black-Box Optimization (the median stopping rule).
"""

import contextlib
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.core.errors import UserError
from research.report.curves import points
from research.report.result_tables import name_of
from research.report.sweep_results import STOPPED_EARLY
from research.runs.directory import read_metrics
from research.runs.notes import change_tag

FEWEST = 4  # values of other jobs that a median is taken of
OPEN = ("running", "interrupted")  # what the record of an unfinished run says that has not failed
Curve = Mapping[int, float]  # from a step to how good a run is after it: the lower, the better


@dataclasses.dataclass(frozen=True)
class MedianRule:
    """What decides whether a job is stopped.

    Attributes:
        judged: the evaluation that judges, its metric, and "min" or "max".
        steps: that the job takes; the last is too late to stop it.
        others: the curves of the other jobs.
    """

    judged: tuple[str, str, str]
    steps: int
    others: Sequence[Curve]

    def first_bad_step(self, own: Curve) -> int | None:
        """Returns the first step after which a job was worse than the median of others, four or more; None without.

        >>> rule = MedianRule(("validation", "loss", "min"), 100, [{10: loss} for loss in (1.0, 2.0, 3.0, 4.0)])
        >>> rule.first_bad_step({10: 2.6}), rule.first_bad_step({10: 2.5, 20: 9.0})
        (10, None)
        """
        for step, value in sorted(own.items()):
            values = [other[step] for other in self.others if step in other]
            if step < self.steps and len(values) >= FEWEST and value > statistics.median(values):
                return step
        return None

    def broken_by(self, folder: Path) -> int | None:
        """Returns the first bad step of a run; None without, or where its metrics cannot be read."""
        return self.first_bad_step(read_curve(folder, self.judged))

    def sentence(self, step: int) -> str:
        """Says why a job was stopped."""
        split, metric, _ = self.judged
        return f"stopped early: at step {step} its {split} {name_of(metric)} was worse than the median of the others"


def read_curve(folder: Path, judged: tuple[str, str, str]) -> Curve:
    """Returns how good a run was after each evaluated step; nothing where its metrics cannot be read."""
    with contextlib.suppress(UserError):
        return curve(read_metrics(folder), judged)
    return {}


def curve(entries: Sequence[Mapping[str, Any]], judged: tuple[str, str, str]) -> Curve:
    """Returns how good a run was after each evaluated step, by the lines of `metrics.jsonl`; NaN is infinitely bad."""
    split, metric, direction = judged
    sign = -1 if direction == "max" else 1
    found = points(entries, "evaluation", metric, split)
    return {step: math.inf if math.isnan(value) else sign * value for step, value in found}


def mark(folder: Path) -> bool:
    """Tags a run as stopped early; returns False where its record cannot be changed, as while it is trained."""
    with contextlib.suppress(UserError):
        change_tag(folder, STOPPED_EARLY)
        return True
    return False


def unmark(folder: Path) -> None:
    """Removes that tag from a run that goes on after all, where its record can be changed."""
    with contextlib.suppress(UserError):
        change_tag(folder, STOPPED_EARLY, remove=True)
