"""All runs under a folder: rows for the terminal, and `index.html`, a page with a link to the report of each.

`python -m research.runs` shows both. A run that cannot be read is a row that says why.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from rich.box import HORIZONTALS
from rich.table import Table

from research.core.errors import UserError
from research.core.files import replace_text
from research.report import numbers, record_tables, result_tables
from research.report.html import REPORT
from research.report.page import render
from research.runs import directory

PAGE = "index.html"
ID_LENGTH = 24  # characters of a run's ID
UNREADABLE = "unreadable"


class RunRow(NamedTuple):
    """A run in the list.

    Attributes:
        folder: the run directory.
        status: of the record; "running or killed", which a record alone cannot tell apart; or "unreadable".
        steps: how far it got: "1,500", or "300 of 1,500".
        label: what the headline measures, "" where there is none.
        value: the headline.
        started: date and time, UTC.
        took: how long it worked.
        notes: what people wrote, the newest last.
        tags: what people tagged it with.
        problem: what cannot be read, "" where all can.
        sorted_by: steps, headline and time as numbers, which the page sorts by.
    """

    folder: Path
    status: str
    steps: str = ""
    label: str = ""
    value: str = ""
    started: str = ""
    took: str = ""
    notes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    problem: str = ""
    sorted_by: tuple[float, float, float] = (0, math.nan, 0)

    @property
    def link(self) -> str:
        """The address of the report, as seen from the page; "" where there is none."""
        there = (self.folder / REPORT).is_file()
        return "/".join(quote(os.fsencode(part)) for part in (*self.folder.parts[-2:], REPORT)) if there else ""


def run_rows(root: Path, tag: str = "") -> list[RunRow]:
    """Returns the runs under a folder, the newest first; of those that can be read, the ones with the tag if given."""
    rows = [_row(run) for run in reversed(directory.all_runs(root))]
    return [row for row in rows if not tag or tag in row.tags]


def _row(run: Path) -> RunRow:
    try:
        record = directory.read_record(run)
    except UserError as error:
        return RunRow(run, UNREADABLE, problem=str(error))
    entries: list[dict[str, Any]] = []
    problem = ""
    # The record of a finished run has all that is shown; its log may be long.
    if record["status"] != "finished" or not record.get("metrics"):
        try:
            entries = directory.read_metrics(run)
        except UserError as error:
            problem = str(error)
    found, _ = result_tables.results_of(record, entries)
    headline, took = result_tables.run_headline(record, found), record_tables.seconds(record)
    step, reached = record_tables.steps_reached(record, entries), record_tables.reached_of(record, entries)
    return RunRow(
        folder=run,
        status="running or killed" if record["status"] == "running" else record["status"],
        steps=f"{step:,}" if record["status"] == "finished" else reached,
        label=headline.label if headline else "",
        value=headline.value if headline else "",
        started=str(record.get("started", ""))[:16].replace("T", " "),
        took="" if took is None else numbers.duration(took),
        notes=tuple(note["text"] for note in record.get("notes", [])),
        tags=tuple(record.get("tags", [])),
        problem=problem,
        sorted_by=(step, headline.number if headline else math.nan, took or 0.0),
    )


def terminal_table(rows: Sequence[RunRow]) -> Table:
    """Returns the rows as a table for the terminal; IDs stay whole, as commands take them."""
    table = Table(box=HORIZONTALS, show_lines=True)
    table.add_column("run", width=ID_LENGTH, overflow="fold")
    for name in ("status, steps", "result", "started, took"):
        table.add_column(name, overflow="fold")
    table.add_column("tags, notes", overflow="fold")
    for row in rows:
        cells = (
            row.folder.parts[-2:],
            (row.status, row.steps),
            (row.label, row.value),
            (row.started[5:], row.took),  # the year is part of the ID
            (", ".join(row.tags), *row.notes),
        )
        table.add_row(*("\n".join(filter(None, lines)) for lines in cells))
    return table


def write_index(root: Path, rows: Sequence[RunRow]) -> Path:
    """Writes `index.html` beside the experiments' folders; raises UserError where it cannot be written."""
    path = root / PAGE
    page = render("index.html", title=f"Runs of {root.resolve().name}", rows=rows, place=root.resolve().name)
    try:
        replace_text(path, page)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): free it, or copy the runs elsewhere.") from None
    return path
