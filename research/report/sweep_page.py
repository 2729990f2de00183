"""A sweep's results: every point of its grid as mean and standard error over its seeds, in tables, curves and a page.

`research.launch.sweep` finds the runs; only those that have finished count. The standard error of n seeds is
s / sqrt(n), with s² = sum (x - mean)² / (n - 1).
"""

import dataclasses
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from research.core.files import write_atomic
from research.report import numbers, record_tables, result_tables
from research.report.charts import Chart, Point, Series, Style, line_chart, smooth
from research.report.curves import COLOURS, points, splits_of
from research.report.page import render
from research.train.evaluation import judged_split

PAGE = "sweep.html"


class SeedRun(NamedTuple):
    """A run as its directory tells it: the folder, `run.json`, and the lines of `metrics.jsonl`."""

    folder: Path
    record: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]


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
        """How many seeds have finished: "3", or "2 of 3"."""
        done, planned = len(self.finished), len(self.runs)
        return str(done) if done == planned else f"{done} of {planned}"


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
        states = Counter(str(run.record["status"]) for run in self.runs)
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
    """The results on a split, one row for each point of the grid that has any."""

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
    main, _ = result_tables.best_of(records[0], split)
    main = main if main in metrics else next(iter(metrics), "")
    return ResultTable(split, tuple(metrics), tuple(row for row in rows if any(row[1])), best, main)


def _cell(point: GridPoint, split: str, metric: str) -> Cell | None:
    found = [result_tables.scalars(run.record.get("metrics", {}).get(split, {})) for run in point.finished]
    values = [float(result[metric]) for result in found if metric in result]
    return mean_and_error(values) if values else None


def terminal_table(sweep: Sweep, table: ResultTable) -> Table:
    """Returns a table of results for the terminal; a star marks the best point."""
    shown = Table(title=f"{table.split} split: {caption(sweep)}", title_justify="left")
    for field in sweep.short_fields:
        shown.add_column(field, overflow="fold")
    shown.add_column("seeds", justify="right")
    for metric in table.metrics:
        shown.add_column(result_tables.name_of(metric), justify="right")
    for point, cells in table.rows:
        best = point is table.best
        texts = [*point.values, point.seeds + " *" * best, *("–" if cell is None else str(cell) for cell in cells)]
        shown.add_row(*texts, style="bold" if best else None)
    return shown


def caption(sweep: Sweep) -> str:
    """Says what stands in a cell, and what the best point is best by."""
    cell = "mean ± standard error over the seeds"
    if all(len(point.finished) < 2 for point in sweep.points):
        cell = "one seed, so without a standard error"
    judged = choice(sweep)
    return cell + (f"; * best by {judged.words}" if judged and len(judged.ranking) > 1 else "")


def sweep_charts(sweep: Sweep) -> list[Chart]:
    """Returns charts in which each point of the grid is one line, the mean over its seeds, in a band of its error.

    Of more points than the palette has colours, those that are best by the metric of `choice` are drawn.
    """
    drawn = drawn_points(sweep)
    splits = dict.fromkeys(split for point in drawn for run in point.finished for split in splits_of(run.entries))

    def chart(title: str, kind: str, metric: str, split: str | None = None, **options: Any) -> Chart | None:
        style: Style = "dots" if kind == "evaluation" else "line"
        series = []
        for colour, point in enumerate(drawn):
            line, errors = mean_curve(point.finished, kind, metric, split)
            series.append(Series(sweep.label(point), line, colour, style, errors))
        return line_chart(title, series, **options)

    judged = choice(sweep)
    scores = dict.fromkeys(["accuracy", *([judged.metric] if judged else [])])
    charts = [
        *(
            chart(f"Loss on the {split} split", "evaluation", "loss", split, logarithm=True, large=True)
            for split in splits
        ),
        *(
            chart(f"{result_tables.title_of(metric)} on the {split} split", "evaluation", metric, split)
            for metric in scores
            if metric != "loss"
            for split in splits
        ),
        chart("Training loss", "train", "loss", logarithm=True, large=True),
    ]
    return [chart for chart in charts if chart is not None]


def drawn_points(sweep: Sweep) -> list[GridPoint]:
    """Returns the points that the charts show, in the order of the grid."""
    judged = choice(sweep)
    best = judged.ranking[:COLOURS] if judged else ()
    return [point for point in sweep.points if point in best]


def mean_curve(
    runs: Sequence[SeedRun], kind: str, metric: str, split: str | None
) -> tuple[list[Point], dict[int, float]]:
    """Returns the mean of a metric over runs at every step that all of them logged, and its standard errors by step.

    Training losses are smoothed before, run by run.
    """
    by_step: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        line = points(run.entries, kind, metric, split)
        for step, value in smooth(line) if kind == "train" else line:
            by_step[step].append(value)
    cells = {step: mean_and_error(values) for step, values in sorted(by_step.items()) if len(values) == len(runs)}
    errors = {step: cell.error for step, cell in cells.items() if cell.error is not None}
    return [(step, cell.mean) for step, cell in cells.items()], errors


def write_page(path: Path, sweep: Sweep) -> Path:
    """Writes the sweep as a page that opens with no network; raises UserError where it cannot be written."""
    drawn = drawn_points(sweep)
    page = render(
        "sweep.html",
        title=f"Sweep of {sweep.name}",
        sweep=sweep,
        about=record_tables.sentence(sweep.runs[0].record) if sweep.runs else "",
        caption=caption(sweep),
        tables=split_tables(sweep),
        name_of_metric=result_tables.name_of,
        state=record_tables.state,
        drawn=drawn,
        seeds=sorted({len(point.finished) for point in drawn}),
        chart_list=sweep_charts(sweep),
        commits=len({str(run.record.get("git")) for run in sweep.runs}),
    )
    write_atomic(path, page)
    return path
