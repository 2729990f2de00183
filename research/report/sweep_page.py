"""A sweep's page and its tables in the terminal: results by point of the grid, curves with bands, and every run.

`research.launch.sweep` calls this with what `sweep_results` has gathered.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from research.core.files import write_atomic
from research.report import record_tables, result_tables
from research.report.charts import Chart, Point, Series, Style, line_chart, smooth
from research.report.curves import COLOURS, points, splits_of
from research.report.page import render
from research.report.sweep_results import (
    GridPoint,
    ResultTable,
    SeedRun,
    Sweep,
    choice,
    mean_and_error,
    split_tables,
)

PAGE = "sweep.html"


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


def state_of(run: SeedRun) -> tuple[str, str]:
    """Returns the state of a run, and a sentence on how far an unfinished one got ("" for a finished one)."""
    if not run.stopped_early:
        return record_tables.state(run.record, run.entries)
    reached = record_tables.reached_of(run.record, run.entries)
    return run.state, f"This run was stopped at step {reached}: it was worse than the median of the other jobs."


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
        state=state_of,
        drawn=drawn,
        seeds=sorted({len(point.finished) for point in drawn}),
        chart_list=sweep_charts(sweep),
        commits=len({str(run.record.get("git")) for run in sweep.runs}),
    )
    write_atomic(path, page)
    return path
