"""Makes a run's model one to share: `python -m research.export RUN FOLDER`.

FOLDER is then a model as the Hugging Face libraries know it, with its tokenizer and the names of its classes, and
low-rank updates merged in; with --adapter, the low-rank updates alone, as the PEFT library knows them.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from research.core import command_line, trees
from research.core.errors import UserError
from research.core.run_directory import find
from research.data.tokenizers import Subwords
from research.hub.adapters import save_adapter
from research.hub.pretrained import PACKAGE, save_pretrained
from research.hub.tokenizer import save_tokenizer
from research.models.lora import BRANCH, merged
from research.train.pretrained import PretrainedModel, is_run
from research.train.run import Run, load_run


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    run: Annotated[str, tyro.conf.Positional]
    """a run directory, an experiment's folder such as runs/bert_sentiment, or 'latest'"""
    folder: Annotated[str, tyro.conf.Positional]
    """where to write; made where it is not there, and files of the same names are replaced"""
    adapter: bool = False
    """write the low-rank updates alone"""
    base: str = ""
    """of the adapter: the hub name or folder of the model that it changes (by default the run's source)"""
    best: bool = False
    """the checkpoint with the lowest validation loss instead of the newest"""
    tokenizer: bool = True
    """write the tokenizer as well"""


def main() -> None:
    options = command_line.parse(Options, description=__doc__ or "")
    if options.base and not options.adapter:
        raise UserError("A whole model needs no base: leave out --base, or add --adapter.")
    run = load_run(find(options.run), best=options.best)
    if options.adapter:
        export_adapter(run, options.folder, options.base, tokenizer=options.tokenizer)
    else:
        export_model(run, options.folder, tokenizer=options.tokenizer)
    print(f"{run.folder} at step {int(run.state.step)} is now in {options.folder}", file=sys.stderr)


def export_model(run: Run, folder: str, *, tokenizer: bool = True) -> None:
    """Writes a run's model with its updates merged in; raises UserError as `save_pretrained`."""
    config, params, data = run.assembly.experiment.model, run.state.evaluated, run.assembly.data
    if isinstance(config, PretrainedModel):
        config, params = config.configuration, merged(params, config.lora)
    save_pretrained(folder, config, params, data.tokenizer if tokenizer else None, labels=data.class_names)


def export_adapter(run: Run, folder: str, base: str = "", *, tokenizer: bool = True) -> None:
    """Writes a run's low-rank updates.

    Args:
        run: of a `PretrainedModel` with LoRA.
        folder: where to write.
        base: what others know the source by; by default as the run does.
        tokenizer: whether to write the tokenizer as well.

    Raises:
        UserError: there are no low-rank updates, others do not know the source, or as `save_adapter`.
    """
    experiment, params, written = run.assembly.experiment, run.state.evaluated, run.assembly.data.tokenizer
    config = experiment.model
    if not isinstance(config, PretrainedModel) or not config.lora.rank:
        raise UserError(f"{run.folder} has no low-rank updates: leave out --adapter.")
    if not base and (is_run(config.source) or config.source.startswith(PACKAGE) or config.source.endswith(".gguf")):
        raise UserError(
            f"The adapter would change {config.source}, which PEFT cannot load: export that as a whole, and give the "
            "folder or its name on the hub with --base."
        )
    rates = trees.flatten(experiment.optimizer.rates(params))
    trained = {path for path, rate in rates.items() if rate} | set(run.record["pretrained"]["new"])
    save_adapter(
        folder,
        config.configuration,
        params,
        config.lora,
        base or config.source,
        revision=None if base else config.revision or None,
        trained={path for path in trained if not path.startswith(f"{BRANCH}/")},
    )
    if tokenizer and isinstance(written, Subwords):
        save_tokenizer(Path(folder), written)


if __name__ == "__main__":
    command_line.run(main)
