"""A run read again from its directory: its configuration, data, functions, and the state of a checkpoint.

Every stage after training begins with `load_run`; where the data or the code of the run have changed it says so.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.core import configs, trees
from research.core.errors import UserError, listed
from research.core.mesh import MeshConfig, check_batch
from research.core.terminal import print_message
from research.data.dataset import Data
from research.runs import checkpoints
from research.runs.directory import CHECKPOINTS, RECORD, read_record
from research.runs.record import changed_code, changed_data
from research.runtime import backend
from research.train.experiment import Assembly, Experiment, assemble
from research.train.state import State, restored


class Run(NamedTuple):
    """A finished, interrupted or loaded run: its folder, its functions and data, and its state."""

    folder: Path
    assembly: Assembly
    state: State
    record: Mapping[str, Any]


def _fitting_here(experiment: Experiment) -> Experiment:
    """Returns an experiment as it is evaluated: on its own mesh if the devices here allow it, else on one of them."""
    experiment = dataclasses.replace(experiment, exact=False, accumulate=1)
    try:
        check_batch(experiment.mesh.build(), experiment.batch_size, 1)
    except UserError:
        return dataclasses.replace(experiment, mesh=MeshConfig(data=1))
    return experiment


def recorded_experiment(record: Mapping[str, Any], folder: Path, trusted: Sequence[str] = ()) -> Experiment:
    """Returns the configuration of a record; raises UserError where it cannot be rebuilt here, or is another's.

    Args:
        record: of the run.
        folder: its directory, for messages.
        trusted: packages of the user's own whose classes may be imported.
    """
    experiment = configs.from_json(record["config"], trusted=trusted)
    for module in changed_code(record):
        print_message(f"{module} has changed since {folder} was recorded")
    if not isinstance(experiment, Experiment):
        raise UserError(f"{folder / RECORD} holds the configuration of no experiment, but {type(experiment).__name__}.")
    return experiment


def _recorded_data(record: Mapping[str, Any], experiment: Experiment, folder: Path) -> Data:
    """Builds the data of a run again; says so where they have changed, as its numbers then do."""
    try:
        data = configs.built(experiment.data, Data)
    except UserError as error:
        raise UserError(f"The data of {folder} cannot be read again: {error}") from None
    if changed := changed_data(record.get("data", {}), data.summary):
        print_message(
            f"{listed(changed)} changed since {folder} was trained: splits, and what is fitted to the training rows, "
            "are others now, and so are the numbers"
        )
    return data


def load_run(folder: Path, *, best: bool = False, trusted: Sequence[str] = ()) -> Run:
    """Rebuilds a run from its directory: data, functions, and the state of its newest (or best) good checkpoint.

    It may have been trained on more devices than there are here.

    Args:
        folder: the run directory.
        best: the checkpoint that is best by the evaluator's metric instead of the newest.
        trusted: packages of the user's own whose classes may be imported; nothing else outside this project is.

    Raises:
        UserError: the record names what this project does not have, or no checkpoint is good.
    """
    backend.start()
    record = read_record(folder)
    experiment = _fitting_here(recorded_experiment(record, folder, trusted))
    assembly = assemble(experiment, _recorded_data(record, experiment, folder))
    assembly.check_memory()
    kept = folder / CHECKPOINTS
    step = checkpoints.best(kept) if best else None
    found_good = step is None
    if step is None:
        step = checkpoints.newest_good(kept, print_message)
    if step is None:
        raise UserError(f"{folder} has no good checkpoint: train it further with --resume, or train again.")
    state = _evaluated_state(assembly, kept, step, verified=found_good, old=record.get("format") == 1)
    return Run(folder, assembly, state, record)


def _evaluated_state(assembly: Assembly, folder: Path, step: int, *, verified: bool, old: bool) -> State:
    """Loads a state; `old` checkpoints hold one tree of parameters, and what their optimizers kept is not read."""
    abstract = trees.abstract_like(assembly.state, assembly.shardings)
    if not old:
        changing, _ = checkpoints.load(folder, step, abstract.changing, verified=verified)
        return restored(changing, checkpoints.load_fixed(folder, abstract.fixed))
    merged = {"params": abstract.merged} | ({} if abstract.average is None else {"average": abstract.merged})
    loaded, _ = checkpoints.load(folder, step, {"step": abstract.step, **merged}, verified=verified, partial=True)
    params, evaluated = assembly.parts(loaded["params"]), assembly.parts(loaded.get("average", loaded["params"]))
    average = None if abstract.average is None else evaluated.params
    return State(loaded["step"], params.params, params.fixed, evaluated.variables, optimizer=None, average=average)
