"""The report of a run: `report.html`, one page that opens with no network, and `MODEL_CARD.md` beside it.

Called at the end of every run and by `python -m research.report RUN`. It reads the run directory and nothing else, so
that it works for unfinished and failed runs, and for runs made elsewhere.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.core.run_directory import METRICS, read_lines, read_record, write_atomic
from research.report import facts, results
from research.report.attention import ATTENTION
from research.report.curves import run_charts
from research.report.model_card import model_card
from research.report.page import render
from research.report.pictures import PREDICTIONS

REPORT = "report.html"
CARD = "MODEL_CARD.md"


def write_report(run: Path) -> Path:
    """Writes `report.html` and `MODEL_CARD.md` into a run directory; returns the path of the page.

    Raises:
        UserError: there is no run, or its record cannot be read.
    """
    write_atomic(run / CARD, model_card(run))
    write_atomic(run / REPORT, report(run))
    return run / REPORT


def report(run: Path) -> str:
    """Returns the page of a run."""
    record, entries = read_record(run), list(read_lines(run / METRICS))
    found, step = results.results_of(record, entries)
    baselines = record.get("baselines", {})
    split = main_split(found)
    status, notice = facts.state(record, entries)
    baseline = results.best_baseline("loss", baselines.get(split, {}))
    class_names = record.get("data", {}).get("class_names", [])
    return render(
        "report.html",
        title=f"{record.get('name', run.name)}: report",
        run=facts.place(run),
        record=record,
        sentence=facts.sentence(record),
        status=status,
        notice=notice,
        step=step,
        headline=_headline(record, found, split),
        facts=facts.headline_rows(record),
        tables=[_result_table(record, name, found[name], class_names) for name in found],
        charts_of_run=run_charts(entries, baseline, facts.marked_events(record)),
        samples=facts.samples(entries),
        pictures=_saved(run / PREDICTIONS),
        attention=_saved(run / ATTENTION),
        data=record.get("data", {}),
        data_name=facts.data_name(record),
        description=str(record.get("data", {}).get("description") or "").partition("\n\n"),
        data_rows=facts.data_rows(record),
        splits=facts.split_table(record),
        layers=facts.layers(record),
        start_rows=facts.start_rows(record),
        config=facts.config_groups(record.get("config", {})),
        environment=facts.environment_rows(record),
        stages=facts.stage_rows(record),
        events=facts.event_rows(record),
    )


def main_split(found: Mapping[str, Any]) -> str:
    """Returns the split of the headline: the test split where there is one, else the first evaluated."""
    return "test" if "test" in found else next(iter(found), "")


def _headline(record: Mapping[str, Any], found: Mapping[str, Any], split: str) -> results.Headline | None:
    if not split:
        return None
    unit = results.loss_unit(record, found[split])
    return results.headline("this run", split, found[split], record.get("baselines", {}).get(split, {}), unit)


def _result_table(record: Mapping[str, Any], split: str, found: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The tables of a split, for the template: all metrics beside the baselines, by class, and the confusion matrix."""
    baselines = record.get("baselines", {}).get(split, {})
    matrix = found.get(results.CONFUSION, [])
    columns, by_class = results.class_rows(found, names)
    return {
        "split": split,
        "columns": ["this run", *baselines],
        "rows": results.rows([found, *baselines.values()]),
        "class_columns": columns,
        "classes": by_class,
        "matrix": results.matrix_rows(matrix, names),
        "confusions": results.confusions(matrix, names),
    }


def _saved(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
