"""Which run goes on: the one that `--resume` names, or the newest of an experiment that can, and opening it.

A run can go on that has not finished, or that is now to take more steps than it was to. Nothing else that changes what
is computed may differ from its record. `research.train.run` opens with `open_resumable`; the launcher asks
`find_resumable` first, as the options are read on top of the recorded ones.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from research.core import configs
from research.core.errors import UserError
from research.core.terminal import print_message
from research.runs.directory import all_runs, read_record, readable
from research.runs.record import FORMAT, RunLog, lock_run

# Fields that change how a run is watched, but not what it computes: free to differ when it is resumed. So is the mesh,
# which says where it is computed: the same batches and keys, and but for the order of the sums the same numbers.
# The period of checkpoints is not among them: a spike of the loss takes a run back to one.
WATCHING = ("log_every", "evaluate_every", "sample_every", "keep_last", "profile", "loggers")
MESH = "mesh."
# What a record says of a finished run.
OF_THE_END = ("finished", "params_sha256", "chain", "metrics", "baselines", "importance")


class Resumable(NamedTuple):
    """A run that might go on.

    Attributes:
        folder: its directory.
        record: its record.
        experiment: what it is to go on as.
        longer: whether that takes more steps than the record says.
        changed: {field: (recorded, now)} of what else differs, which keeps it from going on.
    """

    folder: Path
    record: dict[str, Any]
    experiment: Any
    longer: bool
    changed: dict[str, tuple[Any, Any]]


def find_resumable(
    name: str, root: Path, wanted: Callable[[Path, Mapping[str, Any]], Any], run_id: str | None = None
) -> Resumable:
    """Returns the newest run of an experiment that can go on as it is wanted to; one that is no longer first of all.

    A finished one does so only where none that is newer has not finished: that one is meant.

    Args:
        name: the experiment's name.
        root: where run directories are.
        wanted: (folder, record) to the experiment that the run is to go on as.
        run_id: the ID of the run, where no other will do.

    Raises:
        UserError: there is none; the newest of them computes something else (says which fields differ).
    """
    folders = [run for run in all_runs(root) if run.parent.name == name and run_id in (None, run.name)]
    found: list[Resumable] = []
    passed: list[str] = []
    for folder, record in readable(reversed(folders), passed.append):
        try:
            run = _compared(folder, record, wanted(folder, record))
        except UserError as error:
            passed.append(f"{folder} is passed over: {error}")
            continue
        if run.longer or record["status"] != "finished":
            found.append(run)
        if found and not (found[-1].changed or found[-1].longer):
            break
    what = f"run {root / name / run_id}" if run_id else f"unfinished run of {name} under {root}/"
    if not found and passed:
        raise UserError(f"There is no {what} that can be read: {passed[0]}")
    for text in passed:
        print_message(text)
    if not found:
        raise UserError(f"There is no {what} to resume: start one without --resume, or give more --steps.")
    candidates = [found[0], *(run for run in found if run.record["status"] != "finished")]
    best = min(candidates, key=lambda run: (bool(run.changed), run.longer))
    if best.record.get("format") != FORMAT:
        raise UserError(
            f"{best.folder} was written by an older version, whose checkpoints have another form: start a new run "
            f"without --resume, from its parameters with --model.source {best.folder} where the model is a pretrained "
            "one."
        )
    if best.changed:
        listed = "; ".join(f"{field} was {old!r} and is now {new!r}" for field, (old, new) in best.changed.items())
        raise UserError(
            f"The configuration of {best.folder} has changed: {listed}. Resume with the recorded values, of which "
            "--steps alone may grow, or start a new run without --resume."
        )
    return best


def open_resumable(name: str, experiment: Any, root: Path, run_id: str | None = None) -> RunLog:
    """Opens the run that `find_resumable` finds for an experiment; raises UserError likewise.

    Where it is to take more steps than before, its record, once saved, says so, and what was its end until now.
    """
    run = find_resumable(name, root, lambda *_: experiment, run_id)
    log = RunLog(run.folder, run.record, lock_run(run.folder))
    if read_record(run.folder) != run.record:
        log.close()
        raise UserError(f"Another process has just trained {run.folder} further: repeat the command.")
    record = {"stages": {}, "events": [], "resumes": [], "data": {}, **run.record}
    record["status"] = "running"
    record.pop("error", None)
    if run.longer:
        end = {field: record.pop(field) for field in OF_THE_END if field in record}
        before = {"step": None, "steps": record["config"]["steps"], **end}
        record["extensions"] = [*record.get("extensions", []), before]
        record["config"] = {**record["config"], "steps": experiment.steps}
    return dataclasses.replace(log, record=record)


def _compared(folder: Path, record: dict[str, Any], experiment: Any) -> Resumable:
    changed, longer = changed_fields(record, experiment), is_longer(experiment, record)
    if longer:
        del changed["steps"]
    return Resumable(folder, record, experiment, longer, changed)


def is_longer(experiment: Any, record: Mapping[str, Any]) -> bool:
    """Whether an experiment has more steps than a recorded run was to take."""
    steps = record["config"].get("steps")
    return isinstance(steps, int) and experiment.steps > steps


def computes(field: str) -> bool:
    """Whether a field of the configuration, named with dots, changes what a run computes."""
    return field not in WATCHING and not field.startswith(MESH)


def changed_fields(record: Mapping[str, Any], experiment: Any) -> dict[str, tuple[Any, Any]]:
    """Returns {field: (recorded, now)} where an experiment would compute something else than a recorded run."""
    recorded = configs.completed(record["config"], experiment)
    found = configs.differences(recorded, configs.to_json(experiment))
    return {field: values for field, values in found.items() if computes(field)}
