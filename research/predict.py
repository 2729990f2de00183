"""Asks a run about texts of your own: `python -m research.predict RUN --text "A film to remember."`.

Prints for each text the probability of every class, or the number predicted; for runs on labelled text.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from research.core import command_line
from research.core.errors import UserError
from research.runs.directory import find
from research.train.predictions import predict_texts
from research.train.run import load_run


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    run: Annotated[str, tyro.conf.Positional]
    """a run directory, an experiment's folder such as runs/bert_sentiment, or 'latest'"""
    text: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """a text; again for another"""
    file: str = ""
    """a file with a text on each line, besides"""
    other: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """for models of pairs: the second text of each, in the same order"""
    logits: bool = False
    """print the logits instead of probabilities"""
    best: bool = False
    """the checkpoint that is best by the evaluator's `best` metric instead of the newest"""


def main() -> None:
    options = command_line.parse(Options, description=__doc__ or "")
    texts = [*options.text, *_lines(options.file)]
    if not texts:
        raise UserError("There is no text: give --text 'some text', or --file with one on each line.")
    run = load_run(find(options.run), best=options.best)
    outputs = predict_texts(run, texts, options.other, logits=options.logits)
    names = run.assembly.data.class_names
    table = Table("text", *(names or ("prediction",)))
    for text, numbers in zip(texts, outputs, strict=True):
        best = numbers.argmax() if names else -1
        cells = [
            f"[bold]{number:.4f}[/bold]" if place == best else f"{number:.4f}" for place, number in enumerate(numbers)
        ]
        table.add_row(escape(text), *cells)
    Console().print(table)


def _lines(file: str) -> list[str]:
    if not file:
        return []
    try:
        return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file {file} cannot be read ({error}): name a text file in UTF-8.") from None


if __name__ == "__main__":
    command_line.run(main)
