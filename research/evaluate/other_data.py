"""A run's evaluation on other data than it was trained with: `python -m research.evaluate RUN --data.test mine.csv`.

The options are those of the run's own data configuration, on top of its recorded values. The data are built again, and
must encode inputs as those of the run: a tokenizer is the run's own, the features of tables and the classes are
compared.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.core import command_line, configs
from research.core.errors import UserError
from research.data.dataset import Data, DataConfig
from research.train.experiment import Experiment
from research.train.pretrained import PretrainedTokenizer
from research.train.recorded_run import Run, recorded_experiment


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the data."""

    data: DataConfig


def divided(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the words of a command line without the options of the data, and those alone.

    >>> divided(["latest", "--data.test", "a.csv", "--best"])
    (['latest', '--best'], ['--data.test', 'a.csv'])
    """
    parts: tuple[list[str], list[str]] = ([], [])
    of_data = False
    for word in args:
        of_data = word.startswith("--data") if word.startswith("--") else of_data
        parts[of_data].append(word)
    return parts


def other_config(record: Mapping[str, Any], folder: Path, args: Sequence[str], trusted: Sequence[str]) -> DataConfig:
    """Returns a run's data configuration with options put on it; raises UserError where the record cannot be read."""
    recorded: Experiment = recorded_experiment(record, folder, trusted)
    data = command_line.parse(Options, Options(recorded.data), args=args).data
    if not configs.differences(configs.to_json(recorded.data), configs.to_json(data)):
        raise UserError("These options of the data are those of the run: leave them out, or name other data.")
    return data


def on_other_data(run: Run, config: DataConfig) -> Run:
    """Returns a run whose data are those of `config`, encoded as its own.

    Raises:
        UserError: they are the same data, or would be encoded in another way.
    """
    own = run.assembly.data
    if own.tokenizer is not None and hasattr(getattr(config, "tokenizer", None), "train"):
        config = dataclasses.replace(config, tokenizer=PretrainedTokenizer(str(run.folder)))
    data = configs.built(config, Data)
    if data.summary == own.summary:
        raise UserError(f"With these options the data are those of {run.folder}: they name nothing that is read.")
    if (different := _difference(own, data)) is not None:
        raise UserError(
            f"These data do not fit {run.folder}: {different}. Give yours as another split, beside the training data "
            "of the run, from which that is learned."
        )
    return run._replace(assembly=run.assembly._replace(data=data))


def _difference(own: Data, other: Data) -> str | None:
    """Returns what keeps data from being read as those of a run."""
    if own.class_names != other.class_names:
        return f"their classes are {list(other.class_names)[:10]} and the run's {list(own.class_names)[:10]}"
    shapes, others = ({name: array.shape for name, array in data.spec.batch.items()} for data in (own, other))
    if shapes != others:
        return f"an example has the shapes {others} and one of the run's {shapes}"
    if own.fitted != other.fitted:
        return "the features of their columns are others"
    if own.outputs != other.outputs:
        return f"they want {other.outputs} outputs, and the run has {own.outputs}"
    return None
