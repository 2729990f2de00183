"""A sweep's results: every point of its grid as mean and standard error over its seeds, and which point is the best.

`research.launch.sweep` finds the runs, `sweep_page` shows them; only those that have finished count. The standard error
of n seeds is s / sqrt(n), with s² = sum (x - mean)² / (n - 1).
"""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.report import numbers, result_tables
from research.train.evaluation import judged_split

STOPPED_EARLY = "stopped-early"  # the tag of a run that was stopped since it was worse than the others


class SeedRun(NamedTuple):
    """A run as its directory tells it: the folder, `run.json`, and the lines of `metrics.jsonl`."""

    folder: Path
    record: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]

    @property
    def stopped_early(self) -> bool:
        """Whether it was stopped since it was worse than the others, and not continued to its end."""
        return is_stopped_early(self.record)

    @property
    def state(self) -> str:
        """The status of the record, or "stopped early"."""
        return "stopped early" if self.stopped_early else str(self.record["status"])


def is_stopped_early(record: Mapping[str, Any]) -> bool:
    """Whether a run, by its record, was stopped since it was worse than the others, and not continued to its end."""
    return STOPPED_EARLY in record.get("tags", ()) and record["status"] != "finished"


@dataclasses.dataclass(frozen=True, eq=False)
class GridPoint:
    """The values of the swept fields, and the run of each seed: None for one that has not started."""

    values: tuple[str, ...]
    runs: Mapping[int, SeedRun | None]

    @property
    def finished(self) -> list[SeedRun]:
        """The runs that count."""
        return [run for run in self.runs.values() if run is not None and run.record["status"] == "finished"]

    @property
    def seeds(self) -> str:
        """How many seeds have finished: "3", or "1 of 3, 2 stopped early"."""
        done, planned = len(self.finished), len(self.runs)
        early = f", {self.stopped_early} stopped early" if self.stopped_early else ""
        return str(done) if done == planned else f"{done} of {planned}{early}"

    @property
    def stopped_early(self) -> int:
        """How many runs were stopped early."""
        return sum(run.stopped_early for run in self.runs.values() if run is not None)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, by the points of its grid."""

    name: str
    command: str
    fields: tuple[str, ...]
    points: tuple[GridPoint, ...]
    undrawn: int = 0
    """jobs of points that are not known yet, since they depend on the results of others"""

    @property
    def short_fields(self) -> list[str]:
        """The last word of each field, or the whole of it where two end alike."""
        names = [field.rpartition(".")[2] for field in self.fields]
        return [name if names.count(name) == 1 else field for name, field in zip(names, self.fields, strict=True)]

    def label(self, point: GridPoint) -> str:
        """Names a point in few words: "learning_rate 1e-3, depth 4"."""
        pairs = zip(self.short_fields, point.values, strict=True)
        return ", ".join(f"{name} {value}" for name, value in pairs) or self.name

    @property
    def runs(self) -> list[SeedRun]:
        """The runs that have begun."""
        return [run for point in self.points for run in point.runs.values() if run is not None]

    @property
    def progress(self) -> str:
        """How far the jobs are: "5 of 6 jobs finished, 1 failed"."""
        jobs = sum(len(point.runs) for point in self.points) + self.undrawn
        states = Counter(run.state for run in self.runs)
        # What the record of a killed run says last is "running".
        states.update({"running or killed": states.pop("running", 0), "not started": jobs - len(self.runs)})
        done = states.pop("finished", 0)
        return ", ".join([f"{done} of {jobs} jobs finished", *(f"{n} {state}" for state, n in states.items() if n)])


class Cell(NamedTuple):
    """A metric over the seeds: the mean, and its standard error (None for one seed)."""

    mean: float
    error: float | None

    def __str__(self) -> str:
        text = numbers.metric(self.mean)
        if self.error is None:
            return text
        error = f"{self.error:,.{len(text.partition('.')[2])}f}"
        too_small = "e" in text or (self.error > 0 and not error.strip("0.,"))
        return f"{text} ± {numbers.metric(self.error) if too_small else error}"


@dataclasses.dataclass(frozen=True)
class ResultTable:
    """The results on a split, one row for each point of the grid that has any, or whose runs were stopped early."""

    split: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[GridPoint, tuple[Cell | None, ...]], ...]
    best: GridPoint | None
    main: str
    """the metric that is drawn beside the numbers: the one that decides which is the best"""

    def spreads(self) -> list[tuple[float, float, float] | None]:
        """Returns mean - error, mean, mean + error of each row's main metric, in per cent of their common range."""
        cells = [cells[self.metrics.index(self.main)] for _, cells in self.rows]
        shown = [cell if cell is not None and math.isfinite(cell.mean) else None for cell in cells]
        ends = [cell.mean + sign * (cell.error or 0.0) for cell in shown if cell is not None for sign in (-1, 1)]
        low, high = min(ends, default=0.0), max(ends, default=0.0)

        def place(value: float) -> float:
            return 4 + 92 * (value - low) / (high - low) if high > low else 50.0

        def spread(cell: Cell) -> tuple[float, float, float]:
            error = cell.error or 0.0
            return place(cell.mean - error), place(cell.mean), place(cell.mean + error)

        return [None if cell is None else spread(cell) for cell in shown]


class Choice(NamedTuple):
    """What points are judged by, and the points with a finite mean of it, the best one first."""

    split: str
    metric: str
    ranking: Sequence[GridPoint]

    @property
    def words(self) -> str:
        """The split and the metric: "validation loss"."""
        return f"{self.split} {result_tables.name_of(self.metric)}"


def mean_and_error(values: Sequence[float]) -> Cell:
    """Returns the mean and the standard error of one value or more; no error where it is not defined."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return Cell(mean, None)
    return Cell(mean, statistics.stdev(values) / math.sqrt(len(values)))


def choice(sweep: Sweep) -> Choice | None:
    """Ranks the points by what the runs' evaluator of the split that decides calls best; None without results."""
    records = [run.record for point in sweep.points for run in point.finished]
    split = judged_split(split for record in records for split in record.get("metrics", {}))
    if split is None:
        return None
    metric, direction = result_tables.best_of(records[0], split)
    cells = [(point, _cell(point, split, metric)) for point in sweep.points]
    means = [(cell.mean, point) for point, cell in cells if cell is not None and math.isfinite(cell.mean)]
    means.sort(key=lambda pair: pair[0], reverse=direction == "max")
    return Choice(split, metric, [point for _, point in means])


def split_tables(sweep: Sweep) -> list[ResultTable]:
    """Returns the table of every evaluated split; the best of several points is the same in all."""
    judged = choice(sweep)
    best = judged.ranking[0] if judged and len(judged.ranking) > 1 else None
    splits = dict.fromkeys(
        split for point in sweep.points for run in point.finished for split in run.record.get("metrics", {})
    )
    return [_table(sweep, split, best) for split in splits]


def _table(sweep: Sweep, split: str, best: GridPoint | None) -> ResultTable:
    records = [run.record for point in sweep.points for run in point.finished]
    found = [record.get("metrics", {}).get(split, {}) for record in records]
    # Micro averages of one label an example all equal the accuracy.
    metrics = dict.fromkeys(
        name for result in found for name in result_tables.scalars(result) if not name.endswith("_micro")
    )
    rows = ((point, tuple(_cell(point, split, metric) for metric in metrics)) for point in sweep.points)
    shown = tuple((point, cells) for point, cells in rows if any(cells) or point.stopped_early)
    main, _ = result_tables.best_of(records[0], split)
    main = main if main in metrics else next(iter(metrics), "")
    return ResultTable(split, tuple(metrics), shown, best, main)


def _cell(point: GridPoint, split: str, metric: str) -> Cell | None:
    found = [result_tables.scalars(run.record.get("metrics", {}).get(split, {})) for run in point.finished]
    values = [float(result[metric]) for result in found if metric in result]
    return mean_and_error(values) if values else None
