"""Asks a run about texts of your own: `python -m research.predict RUN --text "A film to remember."`.

Prints for each text the probability of every class, or the number predicted; for runs on labelled text.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from research.core import command_line
from research.core.errors import UserError
from research.core.run_directory import find
from research.data.labelled_text import LabelledText
from research.data.text_examples import Example, encode_text, rows_of
from research.train.run import Run, load_run

BATCH = 64  # texts asked about at once


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    run: Annotated[str, tyro.conf.Positional]
    """a run directory, an experiment's folder such as runs/bert_sentiment, or 'latest'"""
    text: tuple[str, ...] = ()
    """the texts"""
    file: str = ""
    """a file with a text on each line, besides"""
    other: tuple[str, ...] = ()
    """for models of pairs: the second text of each"""
    logits: bool = False
    """print the logits instead of probabilities"""
    best: bool = False
    """the checkpoint with the lowest validation loss instead of the newest"""


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


def predict_texts(run: Run, texts: list[str], others: tuple[str, ...] = (), *, logits: bool = False) -> np.ndarray:
    """Returns the probability (or logit) of each class, or the number predicted, [texts outputs].

    Raises:
        UserError: the run is not one on labels of whole texts, or the texts of pairs are not as many.
    """
    config: Any = run.assembly.experiment.data
    kinds = ("classes", "threshold", "numbers")
    if not isinstance(config, LabelledText) or config.kind not in kinds:
        raise UserError(f"{run.folder} does not label whole texts: name a run on labelled text.")
    if len(others) != (len(texts) if config.other else 0):
        raise UserError(f"There are {len(texts)} texts and {len(others)} others: the run reads {_asked(config)}.")
    seconds = others or [None] * len(texts)
    tokenizer: Any = run.assembly.data.tokenizer
    pairs = zip(texts, seconds, strict=True)
    examples = [Example((encode_text(tokenizer, text, other, config.length),)) for text, other in pairs]
    rows, _ = rows_of(examples, config.length, packing=False)
    predict, name = jax.jit(run.assembly.task.predict), "outputs" if config.kind == "numbers" else "logits"
    size = min(BATCH, len(rows))
    # The last row fills the last batch, so that one compilation serves all.
    batches = (np.arange(start, start + size).clip(max=len(rows) - 1) for start in range(0, len(rows), size))
    parts = [np.asarray(predict(run.state.evaluated, rows.gather(batch))[name]) for batch in batches]
    found = np.concatenate(parts)[: len(rows)]
    if config.kind == "numbers":
        return found
    return found[:, 0] if logits else np.asarray(jax.nn.softmax(found[:, 0]))


def _asked(config: LabelledText) -> str:
    return "two of each" if config.other else "one of each, and no others"


def _lines(file: str) -> list[str]:
    if not file:
        return []
    try:
        return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file {file} cannot be read ({error}): name a text file in UTF-8.") from None


if __name__ == "__main__":
    command_line.run(main)
