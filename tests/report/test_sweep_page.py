"""The summary of a sweep: means, standard errors, the best point, curves with bands, and the page."""

import json
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from research.report.charts import Series, line_chart
from research.report.sweep_page import caption, drawn_points, mean_curve, sweep_charts, write_page
from research.report.sweep_results import Cell, GridPoint, SeedRun, Sweep, choice, mean_and_error, split_tables

finite = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


def run(
    losses: list[float], *, status: str = "finished", best: tuple[str, str] = ("loss", "min"), **metrics: Any
) -> SeedRun:
    """A run that evaluated every ten steps and had these losses; `metrics` are further ones of the end."""
    entries: list[dict[str, Any]] = []
    for step, loss in enumerate(losses, start=1):
        entries.append({"step": 10 * step, "kind": "train", "loss": loss})
        entries.append({"step": 10 * step, "kind": "evaluation", "name": "validation", "loss": loss})
    evaluators = [{"split": "validation", "best": best}, {"split": "test", "best": ("loss", "min")}]
    config = {"steps": 30, "evaluators": evaluators}
    record: dict[str, Any] = {"name": "tiny", "status": status, "config": config, "git": {"commit": "a"}}
    if status == "finished":
        record["metrics"] = {"validation": {"loss": losses[-1], **metrics}, "test": {"loss": -losses[-1]}}
    return SeedRun(Path("runs/tiny/20250101-000000-000-abcd"), record, entries)


def sweep_of(*points: list[SeedRun | None]) -> Sweep:
    """A sweep over `optimizer.learning_rate`, one list of runs for each of its values."""
    grid = (GridPoint((f"{value}e-3",), dict(enumerate(runs))) for value, runs in enumerate(points, start=1))
    return Sweep("tiny", "python -m research.launch.sweep tiny", ("optimizer.learning_rate",), tuple(grid))


@given(st.lists(finite, min_size=2, max_size=12))
def test_the_error_is_numpys(values: list[float]) -> None:
    """Mean and standard error equal NumPy's mean and deviation (ddof=1) over the root of the number of seeds."""
    cell = mean_and_error(values)
    scale = max(map(abs, values))
    assert cell.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12 * scale)
    expected = np.std(values, ddof=1) / np.sqrt(len(values))
    assert cell.error == pytest.approx(expected, rel=1e-6, abs=1e-12 * scale)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(1.26341, 0.00123), "1.2634 ± 0.0012"),
        (Cell(1234.56, 7.89), "1,234.6 ± 7.9"),
        (Cell(0.5, 2e-6), "0.5000 ± 2.000e-6"),
        (Cell(2e-5, 1e-6), "2.000e-5 ± 1.000e-6"),
        (Cell(0.5, 0.0), "0.5000 ± 0.0000"),
        (Cell(0.5, None), "0.5000"),
    ],
)
def test_a_cell_has_as_many_decimals_as_it_needs(cell: Cell, text: str) -> None:
    """The error has the decimals of the mean, and does not read as zero where it is not."""
    assert str(cell) == text


@pytest.mark.parametrize("values", [[1.0], [1.0, float("inf")]])
def test_one_seed_or_a_diverged_one_has_no_error(values: list[float]) -> None:
    """A standard error that is not defined is not shown."""
    assert mean_and_error(values).error is None


def test_the_best_point_is_chosen_on_the_validation_split() -> None:
    """The lowest mean validation loss marks the same row in every table, the test split's too, which disagrees."""
    sweep = sweep_of([run([3, 2.0]), run([3, 1.0])], [run([3, 0.5]), run([3, 1.5])], [run([3, 9.0])])
    tables = {table.split: table for table in split_tables(sweep)}
    assert [str(cells[0]) for _, cells in tables["validation"].rows] == ["1.5000 ± 0.5000", "1.0000 ± 0.5000", "9.0000"]
    assert tables["validation"].best is tables["test"].best is sweep.points[1]
    assert "best by validation loss" in caption(sweep)


@pytest.mark.parametrize(("best", "order"), [(("accuracy", "max"), [1, 0]), (("loss", "min"), [2, 0, 1])])
def test_the_evaluators_best_ranks_the_points(best: tuple[str, str], order: list[int]) -> None:
    """The highest accuracy where that decides, whatever the loss; NaN is never ranked."""
    accuracies = {1.0: 0.7, 2.0: 0.9, 0.1: float("nan")}
    sweep = sweep_of(*([run([loss], best=best, accuracy=accuracy)] for loss, accuracy in accuracies.items()))
    judged = choice(sweep)
    assert judged is not None and judged.words == f"validation {best[0]}"
    assert judged.ranking == [sweep.points[index] for index in order]
    assert [table.main for table in split_tables(sweep)] == [best[0], "loss"]


def test_the_metric_that_decides_is_drawn() -> None:
    """Besides the loss, and under its name."""
    (point,) = sweep_of([run([2.0, 1.0], best=("bleu", "max"), bleu=20.0)]).points
    for entry in point.runs[0].entries:
        entry["bleu"] = 10.0
    titles = [chart.title for chart in sweep_charts(Sweep("tiny", "", ("optimizer.peak",), (point,)))]
    assert "BLEU on the validation split" in titles and "Loss on the validation split" in titles


def test_only_finished_runs_count() -> None:
    """Unfinished, failed and missing runs are counted, not averaged; a point without any has no row."""
    sweep = sweep_of([run([3, 2]), run([3, 1], status="failed"), None], [run([4], status="running"), None, None])
    (table, _) = split_tables(sweep)
    assert [(point.seeds, [cell and cell.mean for cell in cells]) for point, cells in table.rows] == [("1 of 3", [2.0])]
    assert table.best is None
    assert sweep.progress == "1 of 6 jobs finished, 1 failed, 1 running or killed, 3 not started"


def test_a_run_that_was_stopped_early_is_shown_as_such(tmp_path: Path) -> None:
    """Counted, not averaged, in a row even where no other seed finished, and named on the page; until it finishes."""

    def tagged(losses: list[float], status: str = "interrupted") -> SeedRun:
        found = run(losses, status=status)
        return found._replace(record={**found.record, "tags": ["paper", "stopped-early"]})

    sweep = sweep_of([run([3, 2]), tagged([9]), None], [tagged([8]), None, None], [tagged([4, 3], "finished")])
    assert sweep.progress == "2 of 7 jobs finished, 2 stopped early, 3 not started"
    table, _ = split_tables(sweep)
    assert [(point.seeds, [cell and cell.mean for cell in cells]) for point, cells in table.rows] == [
        ("1 of 3, 1 stopped early", [2.0]),
        ("0 of 3, 1 stopped early", [None]),
        ("1", [3.0]),
    ]
    page = write_page(tmp_path / "sweep.html", sweep).read_text(encoding="utf-8")
    assert page.count('<span class="status stopped early">stopped early</span>') == 2
    assert page.count("stopped at step 10 of 30: it was worse than the median of the other jobs") == 2
    assert "--resume" not in page


def test_curves_average_the_steps_that_all_seeds_logged() -> None:
    """Every point of a curve is over the same seeds, and its error NumPy's."""
    line, errors = mean_curve([run([3, 2, 1]), run([5, 4])], "evaluation", "loss", "validation")
    assert line == [(10, 4.0), (20, 3.0)]
    assert errors == pytest.approx({step: np.std([0, 2], ddof=1) / np.sqrt(2) for step in (10, 20)})


def test_a_band_is_drawn_inside_the_chart() -> None:
    """The scale leaves room for the error, the band is closed around the line, and the pointer shows the error."""
    chart = line_chart("Loss", [Series("a", [(1, 1.0), (2, 2.0)], errors={1: 0.5, 2: 3.0})], logarithm=True)
    assert chart is not None
    assert [view.name for view in chart.views] == ["linear"], "a band below zero has no logarithm"
    (view,) = chart.views
    assert view.scale.low <= -1.0 and view.scale.high >= 5.0
    (band,) = [path for style, path in view.paths if style.startswith("band")]
    heights = [float(height) for height in re.findall(r"[ML][\d.]+ ([\d.]+)", band)]
    expected = [1000 * (1 - view.scale.fraction(value)) for value in (0.5, -1.0, 5.0, 1.5)]
    assert heights == pytest.approx(expected, abs=0.1)
    assert json.loads(chart.values)["series"][0]["errors"] == {"1": 0.5, "2": 3.0}


def test_a_single_evaluation_has_an_error_bar() -> None:
    """A band of no width would be invisible."""
    (chart, *_) = sweep_charts(sweep_of([run([2.0]), run([1.0])]))
    assert [style for style, _ in chart.views[0].paths] == ["bar colour-0", "points colour-0"]


def test_the_charts_show_the_best_points_of_a_large_grid() -> None:
    """Of nine points the seven best are drawn, each in a colour of its own, and the page says so."""
    sweep = sweep_of(*([run([10.0 - value, 9.0 - value])] for value in range(9)))
    assert drawn_points(sweep) == list(sweep.points[2:])
    (chart, *_) = sweep_charts(sweep)
    assert [series.name for series in chart.series] == [f"learning_rate {value}e-3" for value in range(3, 10)]
    assert len({series.colour for series in chart.series}) == 7


def test_the_page_says_what_it_shows(tmp_path: Path) -> None:
    """Table, band and number of seeds are in a page that loads nothing; every run is linked, every absence named."""
    sweep = sweep_of([run([3, 2]), run([3, 1])], [run([4, 3]), run([4, 3], status="running")], [None, None])
    page = write_page(tmp_path / "sweep.html", sweep).read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "1.5000 ± 0.5000" in text and "the mean over 1 to 2 seeds" in text and "± one standard error" in text
    assert "3 of 6 jobs finished" in text and text.count("not started") >= 2
    assert page.count('class="band colour-0"') >= 1 and page.count('href="20250101-000000-000-abcd/report.html"') == 4
    assert "default-src 'none'" in page and "src=" not in page


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    """A sweep of one seed is shown as such."""
    page = write_page(tmp_path / "sweep.html", sweep_of([run([3, 2])], [run([4, 3])])).read_text(encoding="utf-8")
    assert "one seed gives no band" in page and 'class="band' not in page and "± standard error" not in page


def test_fields_of_one_last_name_are_told_apart() -> None:
    """Labels give the last word of a field, and the whole of it where two end alike."""
    point = GridPoint(("a", "b", "c"), {})
    sweep = Sweep("tiny", "", ("model.kind", "schedule.kind", "model.depth"), (point,))
    assert sweep.label(point) == "model.kind a, schedule.kind b, depth c"
