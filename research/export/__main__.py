"""Makes a run's model one to share: `python -m research.export RUN DIR [--format hf|adapter]`.

DIR is then a model as the Hugging Face libraries know it, with its tokenizer and the names of its classes, and
low-rank updates merged in; with `--format adapter`, the low-rank updates alone, as the PEFT library knows them.
"""

import dataclasses
import sys
from typing import Annotated, Literal

import tyro

from research.core import command_line
from research.core.errors import UserError
from research.export.adapter import export_adapter
from research.export.hugging_face import export_model
from research.runs.directory import find
from research.train.recorded_run import load_run


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    run: Annotated[str, tyro.conf.Positional]
    """a run directory, an experiment's folder such as runs/bert_sentiment, or 'latest'"""
    folder: Annotated[str, tyro.conf.Positional]
    """where to write; made where it is not there, and files of the same names are replaced"""
    format: Literal["hf", "adapter"] = "hf"
    """a whole model of the Hugging Face libraries, or the low-rank updates alone, as PEFT has them"""
    base: str = ""
    """of the adapter: the hub name or folder of the model that it changes (by default the run's source)"""
    best: bool = False
    """the checkpoint that is best by the evaluator's `best` metric instead of the newest"""
    tokenizer: bool = True
    """write the tokenizer as well"""
    trust: command_line.Trust = ()


def main() -> None:
    options = command_line.parse(Options, description=__doc__ or "")
    if options.base and options.format != "adapter":
        raise UserError("A whole model needs no base: leave out --base, or add --format adapter.")
    run = load_run(find(options.run), best=options.best, trusted=options.trust)
    if options.format == "adapter":
        export_adapter(run, options.folder, options.base, tokenizer=options.tokenizer)
    else:
        export_model(run, options.folder, tokenizer=options.tokenizer)
    print(f"{run.folder} at step {int(run.state.step)} is now in {options.folder}", file=sys.stderr)


if __name__ == "__main__":
    command_line.run(main)
