"""Asks a run about inputs of your own: `python -m research.predict RUN --text "A film to remember."`.

Prints for each input the probability of every class, the numbers predicted, or the answer found. What to give is what
the run was trained on: texts (--text, --file), questions with the texts that answer them (--text, --other), images
(--image), or rows of a table (--row, --table).
"""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from research.core import command_line
from research.core.errors import UserError
from research.core.ranges import Prose
from research.core.terminal import console
from research.data.sources import matching_files, read_records
from research.data.sources.text import text_of
from research.runs.directory import find
from research.train.predictions import answers_questions, predict_answers, predict_inputs
from research.train.recorded_run import load_run

Named = list[tuple[str, Any]]  # inputs, each with what the table of predictions calls it


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    run: Annotated[str, tyro.conf.Positional]
    """a run directory, an experiment's folder such as runs/bert_sentiment, or 'latest'"""
    text: Annotated[tuple[Prose, ...], tyro.conf.UseAppendAction] = ()
    """a text; again for another"""
    file: str = ""
    """a file with a text on each line, besides; compressed or not"""
    other: Annotated[tuple[Prose, ...], tyro.conf.UseAppendAction] = ()
    """for models of pairs: the second text of each, in the same order; of a question, the text that answers it"""
    image: tuple[str, ...] = ()
    """files of images"""
    row: Annotated[tuple[Prose, ...], tyro.conf.UseAppendAction] = ()
    """a row of a table, 'column=value,column=value'; again for another"""
    table: str = ""
    """a table, such as CSV with a header, JSON lines or Parquet, besides"""
    logits: bool = False
    """print the logits instead of probabilities"""
    json: bool = False
    """print JSON lines instead of a table"""
    best: bool = False
    """the checkpoint that is best by the evaluator's `best` metric instead of the newest"""
    trust: command_line.Trust = ()


def main() -> None:
    options = command_line.parse(Options, description=__doc__ or "")
    inputs = named_inputs(options)
    run = load_run(find(options.run), best=options.best, trusted=options.trust)
    values = [value for _, value in inputs]
    if answers_questions(run):
        columns, rows, best = ["answer"], [[answer] for answer in predict_answers(run, values)], False
    else:
        outputs = predict_inputs(run, values, logits=options.logits)
        names = run.assembly.data.class_names
        numbered = [f"prediction {number}" for number in range(1, outputs.shape[1] + 1)]
        columns = list(names) or (numbered if len(numbered) > 1 else ["prediction"])
        rows, best = outputs.tolist(), bool(names)
    named = [name for name, _ in inputs]
    if options.json:
        for name, row in zip(named, rows, strict=True):
            predicted = {"prediction": columns[row.index(max(row))], "scores": dict(zip(columns, row, strict=True))}
            print(json.dumps({"input": name, **(predicted if best else dict(zip(columns, row, strict=True)))}))
        return
    table = Table("input", *columns)
    for name, row in zip(named, rows, strict=True):
        table.add_row(name, *_cells(row, best))
    console().print(table)


def _cells(row: Sequence[Any], best: bool) -> list[Text]:
    """Returns a row as the table shows it, the largest number bold where it is `best`."""
    cells = [value if isinstance(value, str) else f"{value:.4f}" for value in row]
    largest = row.index(max(row)) if best else -1
    return [Text(cell, "bold" if place == largest else "") for place, cell in enumerate(cells)]


def named_inputs(options: Options) -> Named:
    """Returns the inputs of the command line; raises UserError where there are none, or of several kinds."""
    kinds = [
        found
        for found in (
            _texts([*options.text, *_lines(options.file)], options.other),
            [(file, Path(file)) for file in options.image],
            [*((row, _row(row)) for row in options.row), *(read_records([options.table]) if options.table else ())],
        )
        if found
    ]
    if not kinds:
        raise UserError(
            "There is nothing to predict for: give --text 'some text', --image FILE, --row 'column=value,...' or "
            "--table FILE, whichever the run was trained on."
        )
    if len(kinds) > 1:
        raise UserError("A run reads inputs of one kind: give texts, images or rows of a table.")
    return kinds[0]


def _texts(texts: Sequence[str], others: Sequence[str]) -> Named:
    if others and len(others) != len(texts):
        raise UserError(f"There are {len(texts)} texts and {len(others)} others: give one --other for each text.")
    return list(zip(texts, zip(texts, others, strict=True) if others else texts, strict=True))


def _row(text: str) -> Mapping[str, str]:
    """Returns the columns of 'column=value,...', quoted as in a CSV file."""
    cells = [cell.partition("=") for cell in next(csv.reader([text], skipinitialspace=True), [])]
    if wrong := [name for name, equals, _ in cells if not equals]:
        raise UserError(f"The row {text!r} has {wrong[0]!r} where 'column=value' should be: give --row 'a=1,b=2'.")
    return {name.strip(): value.strip() for name, _, value in cells}


def _lines(file: str) -> list[str]:
    found = matching_files([file]) if file else []
    return [line.rstrip("\r") for each in found for line in text_of(each).split("\n") if line.strip()]


if __name__ == "__main__":
    command_line.run(main)
