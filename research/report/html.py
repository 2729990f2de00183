"""The report of a run: `report.html`, one page that opens with no network, and `MODEL_CARD.md` beside it.

Called at the end of every run and by `python -m research.report RUN`. It reads the run directory, so that it works for
unfinished and failed runs, and for runs made elsewhere; and the experiment's module, where it is here, to mark what
differs from its defaults.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.core.files import write_atomic
from research.report import record_tables, result_tables
from research.report.classifier_charts import classifier_charts, importance_rows
from research.report.curves import run_charts
from research.report.experiment_defaults import changed_fields
from research.report.layer_rows import layers
from research.report.model_card import model_card
from research.report.page import render
from research.report.samples_shown import samples
from research.report.speed import speed_rows
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
    split = result_tables.main_split(found)
    best = result_tables.best_of(record, split)
    status, notice = record_tables.state(record, entries)
    baseline = result_tables.best_baseline("loss", baselines.get(split, {}), higher=False)
    changed = changed_fields(record)
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
        headline=result_tables.run_headline(record, found),
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
        layers=layers(record),
        start_rows=record_tables.start_rows(record),
        config=record_tables.config_groups(record.get("config", {}), changed),
        changed=changed,
        environment=record_tables.environment_rows(record),
        stages=record_tables.stage_rows(record),
        speed=speed_rows(record, entries),
        events=record_tables.event_rows(record),
    )


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
        "charts": classifier_charts(found, split),
        "importance": importance_rows(record.get("importance", {}).get(split, {})),
        "decides": result_tables.name_of(result_tables.best_of(record, split)[0]),
    }
