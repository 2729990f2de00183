"""`python -m research.compare RUN RUN ...`: what differs in configuration, result and environment, and the curves.

Prints tables and writes `compare.html`, one page that opens with no network. Runs are named by the letters A, B, C.
"""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.core import command_line
from research.core.errors import UserError
from research.core.files import replace_text
from research.core.terminal import console, printable, say
from research.report import record_tables, result_tables
from research.report.curves import comparison_charts
from research.report.page import render
from research.runs import directory
from research.runs.chain import first_difference

Difference = tuple[str, tuple[str, ...]]  # (field, value in every run)
ABSENT = "–"


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """two run directories or more; the word latest names the newest"""
    output: Path = Path("runs/compare.html")
    """the page to write"""


class Run(NamedTuple):
    """What a run directory says, under the letter that the comparison calls it."""

    letter: str
    place: str
    record: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]
    chain: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What differs between runs, as tables with one column a run, and what their hash chains say."""

    facts: list[Difference]
    config: list[Difference]
    results: list[tuple[str, list[result_tables.Row]]]
    """(split, rows)"""
    environment: list[Difference]
    chains: list[str]
    """a sentence for every run but the first, which it is compared with"""


def main() -> None:
    """Prints the comparison and writes the page."""
    options = command_line.parse(Options, description=__doc__ or "")
    folders = [directory.find(run) for run in options.runs]
    if not 2 <= len(folders) <= len(string.ascii_uppercase):
        raise UserError(f"A comparison needs two to 26 runs, and {len(folders)} was given: name RUN RUN ...")
    runs = [read(letter, folder) for letter, folder in zip(string.ascii_uppercase, folders, strict=False)]
    comparison = compare(runs)
    page = write_page(options.output, runs, comparison)
    show(console(), runs, comparison)
    say(f"page: {page}")


def read(letter: str, folder: Path) -> Run:
    """Reads a run directory; raises UserError where it has no readable record."""
    return Run(
        letter=letter,
        place=record_tables.place(folder),
        record=directory.read_record(folder),
        entries=directory.read_metrics(folder),
        chain=directory.read_chain(folder),
    )


def compare(runs: Sequence[Run]) -> Comparison:
    """Compares the runs with one another, and their chains with the first one's."""
    measured = [result_tables.results_of(run.record, run.entries)[0] for run in runs]
    splits = dict.fromkeys(split for found in measured for split in found)
    return Comparison(
        facts=_side_by_side([dict(record_tables.headline_rows(run.record)) for run in runs]),
        config=differences([run.record.get("config", {}) for run in runs]),
        results=[(split, result_tables.rows([found.get(split, {}) for found in measured])) for split in splits],
        environment=differences([_environment(run.record) for run in runs]),
        chains=[_chain_sentence(runs[0], other) for other in runs[1:]],
    )


def differences(values: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Returns the fields of nested JSON values that are not the same in all, "–" where one has no such field."""
    rows = _side_by_side([dict(record_tables.table(value)) for value in values])
    return [(field, _short(field, cells)) for field, cells in rows if len(set(cells)) > 1]


def _short(field: str, cells: tuple[str, ...]) -> tuple[str, ...]:
    """Leaves out the modules of types, where their names tell them apart."""
    names = tuple(cell.rpartition(".")[2] for cell in cells)
    return names if field.endswith("type") and len(set(names)) == len(set(cells)) else cells


def _side_by_side(tables: Sequence[Mapping[str, str]]) -> list[Difference]:
    fields = dict.fromkeys(field for table in tables for field in table)
    return [(field, tuple(table.get(field, ABSENT) for table in tables)) for field in fields]


def _environment(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"git": record.get("git") or {}, **record.get("environment", {})}


def _chain_sentence(first: Run, other: Run) -> str:
    pair = f"{first.letter} and {other.letter}"
    if not first.chain or not other.chain:
        return f"{pair}: a run without steps has nothing to compare."
    found = first_difference(first.chain, other.chain)
    shorter = min(len(first.chain), len(other.chain))
    if found is not None:
        step, parts = found
        return f"{pair} first differ at step {step:,}, in {' and '.join(parts) or 'what came before'}."
    if len(first.chain) == len(other.chain):
        return f"{pair} are identical in all {shorter:,} steps."
    return f"{pair} are identical in the {shorter:,} steps that both have."


def show(shown: Console, runs: Sequence[Run], comparison: Comparison) -> None:
    """Prints the comparison."""
    letters = [run.letter for run in runs]
    for run in runs:
        shown.print(Text.assemble((run.letter, "bold"), printable(f"  {run.place}  {run.record['status']}")))
    _print_table(shown, "Runs", letters, comparison.facts, "")
    _print_table(shown, "Configuration", letters, comparison.config, "no field differs")
    for split, rows in comparison.results:
        _print_table(shown, f"Results on the {split} split", letters, [(row.metric, row.cells) for row in rows], "")
    _print_table(shown, "Environment", letters, comparison.environment, "nothing differs")
    for sentence in comparison.chains:
        shown.print(sentence)


def _print_table(shown: Console, title: str, letters: list[str], rows: Sequence[Difference], nothing: str) -> None:
    if not rows:
        shown.print(f"{title}: {nothing}")
        return
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    for letter in letters:
        table.add_column(letter, justify="right", overflow="fold")
    for name, cells in rows:
        table.add_row(name, *cells)
    shown.print(table)


def write_page(path: Path, runs: Sequence[Run], comparison: Comparison) -> Path:
    """Writes the comparison as a page, the curves of all runs together; raises UserError where it cannot be written."""
    page = render(
        "compare.html",
        title="Comparison of " + ", ".join(run.place for run in runs),
        runs=[
            (run.letter, run.place, record_tables.sentence(run.record), run.record.get("status", "unknown"))
            for run in runs
        ],
        comparison=comparison,
        chart_list=comparison_charts({run.letter: run.entries for run in runs}),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, page)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another place with --output.") from None
    return path


if __name__ == "__main__":
    command_line.run(main)
