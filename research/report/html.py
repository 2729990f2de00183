"""The report of a run: `report.html`, one page that opens with no network, and `MODEL_CARD.md` beside it.

Called at the end of every run and by `python -m research.report RUN`. It reads the run directory and nothing else, so
that it works for unfinished and failed runs, and for runs made elsewhere.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.core.files import write_atomic
from research.report import record_tables, result_tables
from research.report.curves import run_charts
from research.report.model_card import model_card
from research.report.page import render
from research.report.samples_shown import samples
from research.runs import schema
from research.runs.directory import ATTENTION, PREDICTIONS, read_metrics, read_record, read_shown

REPORT = "report.html"
CARD = "MODEL_CARD.md"


def write_report(run: Path) -> Path:
    """Writes `report.html` and `MODEL_CARD.md` into a run directory; returns the path of the page.

    Raises:
        UserError: there is no run, a file of it cannot be read, or the pages cannot be written.
    """
    card, page = model_card(run), report(run)
    write_atomic(run / CARD, card)
    write_atomic(run / REPORT, page)
    return run / REPORT


def report(run: Path) -> str:
    """Returns the page of a run."""
    record, entries = read_record(run), read_metrics(run)
    found, step = result_tables.results_of(record, entries)
    baselines = record.get("baselines", {})
    split = main_split(found)
    best = result_tables.best_of(record, split)
    status, notice = record_tables.state(record, entries)
    baseline = result_tables.best_baseline("loss", baselines.get(split, {}), higher=False)
    class_names = record.get("data", {}).get("class_names", [])
    return render(
        "report.html",
        title=f"{record.get('name', run.name)}: report",
        run=record_tables.place(run),
        record=record,
        sentence=record_tables.sentence(record),
        status=status,
        notice=notice,
        step=step,
        headline=_headline(record, found, split),
        metadata=record_tables.headline_rows(record),
        tables=[_result_table(record, name, found[name], class_names) for name in found],
        charts_of_run=run_charts(entries, baseline, record_tables.marked_events(record), best=best[0]),
        samples=samples(run, entries),
        pictures=read_shown(run, PREDICTIONS, schema.PICTURES),
        attention=read_shown(run, ATTENTION, schema.ATTENTION),
        data=record.get("data", {}),
        data_name=record_tables.data_name(record),
        description=str(record.get("data", {}).get("description") or "").partition("\n\n"),
        data_rows=record_tables.data_rows(record),
        splits=record_tables.split_table(record),
        layers=record_tables.layers(record),
        start_rows=record_tables.start_rows(record),
        config=record_tables.config_groups(record.get("config", {})),
        environment=record_tables.environment_rows(record),
        stages=record_tables.stage_rows(record),
        events=record_tables.event_rows(record),
    )


def main_split(found: Mapping[str, Any]) -> str:
    """Returns the split of the headline: the test split where there is one, else the first evaluated."""
    return "test" if "test" in found else next(iter(found), "")


def _headline(record: Mapping[str, Any], found: Mapping[str, Any], split: str) -> result_tables.Headline | None:
    if not split:
        return None
    unit = result_tables.loss_unit(record, found[split])
    baselines, best = record.get("baselines", {}).get(split, {}), result_tables.best_of(record, split)
    return result_tables.headline("this run", split, found[split], baselines, unit, best)


def _result_table(record: Mapping[str, Any], split: str, found: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The tables of a split, for the template: all metrics beside the baselines, by class, and the confusion matrix."""
    baselines = record.get("baselines", {}).get(split, {})
    matrix = found.get(result_tables.CONFUSION, [])
    columns, by_class = result_tables.class_rows(found, names)
    return {
        "split": split,
        "columns": ["this run", *baselines],
        "rows": result_tables.rows([found, *baselines.values()], result_tables.best_of(record, split)),
        "class_columns": columns,
        "classes": by_class,
        "matrix": result_tables.matrix_rows(matrix, names),
        "confusions": result_tables.confusions(matrix, names),
    }
