"""The record of a run: opening a new run directory or the newest unfinished one, and what `run.json` says.

The record is written when the run starts, at every event and when it ends, so that a killed run can be read,
compared and resumed.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import itertools
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.core import configs
from research.core.errors import UserError
from research.core.files import append_lines
from research.core.json_files import truncate_after
from research.core.terminal import print_message
from research.runs.directory import CHAIN, CHECKPOINTS, METRICS, all_runs, read_record, readable, write_record
from research.runs.schema import is_plain_name
from research.runtime import backend, processes

# Fields that change how a run is watched, but not what it computes: free to differ when it is resumed. So is the mesh,
# which says where it is computed: the same batches and keys, and but for the order of the sums the same numbers.
# The period of checkpoints is not among them: a spike of the loss takes a run back to one.
WATCHING = ("log_every", "evaluate_every", "sample_every", "keep_last", "loggers")
MESH = "mesh."
# 1: checkpoints hold one tree `params`; 2: what is fixed is stored once, and variables apart.
FORMAT = 2


@dataclasses.dataclass
class RunLog:
    """An open run: its folder, its record, and the lock that keeps others out until `close`.

    Of the processes of a run the first one alone writes it; in the others these methods keep the record up to date.
    """

    folder: Path
    record: dict[str, Any]
    lock: int | None
    """None in processes other than the first"""
    unwritten: dict[str, list[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    """lines, by file, that a full disk has refused"""

    def save(self) -> None:
        """Writes the record as it stands; raises UserError where that fails."""
        if self.lock is not None:
            write_record(self.folder, self.record)

    def try_save(self) -> None:
        """Writes the record, unless the disk is full: then it stays as it was, and is written later."""
        with contextlib.suppress(UserError):
            self.save()

    def truncate(self, step: int) -> None:
        """Keeps the lines up to and including `step`, written or waiting."""
        for file in (CHAIN, METRICS):
            truncate_after(self.folder / file, step)
            self.unwritten[file] = [line for line in self.unwritten.pop(file, []) if line["step"] <= step]

    def write_lines(self) -> None:
        """Writes the lines that wait; raises UserError where that fails."""
        for file in list(self.unwritten):
            append_lines(self.folder / file, self.unwritten[file])
            del self.unwritten[file]

    def append(self, file: str, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Appends JSON lines to a file; returns False, and keeps them for the next time, where the disk is full."""
        if self.lock is None:
            return True
        kept = self.unwritten.pop(file, [])
        try:
            append_lines(self.folder / file, [*kept, *lines])
        except UserError:
            self.unwritten[file] = [*kept, *lines]
            if not kept:
                what = f"{self.folder / file} cannot be written: free space there"
                print_message(f"{what}; training goes on, and the lines wait until then")
        return file not in self.unwritten

    def spent(self, stage: str, seconds: float) -> None:
        """Adds to the wall time of a stage, in all sessions of the run."""
        stages = self.record["stages"]
        stages[stage] = round(stages.get(stage, 0.0) + seconds, 3)

    def note_sudden_end(self) -> None:
        """Records that a signal has ended the run where nothing could be saved."""
        if self.record["status"] == "running":
            self.record.update(status="interrupted", finished=now())
            self.try_save()

    def close(self) -> None:
        """Lets others open the run; the end of the process, however it ends, does so too."""
        if self.lock is not None:
            os.close(self.lock)

    def event(self, step: int, message: str, *, kind: str, **metadata: Any) -> None:
        """Records something a reader of the report must know, and prints it to standard error."""
        self.record["events"].append({"step": step, "time": now(), "kind": kind, "message": message, **metadata})
        if self.lock is not None:
            print_message(f"step {step}: {message}")
        self.try_save()

    def failed_evaluation(self, step: int, name: str, error: Exception) -> None:
        """Records that an evaluator has failed, once for each way to fail."""
        cause = f"{type(error).__name__}: {error}"
        message = f"the evaluation {name} failed ({cause}): training goes on without its results"
        if not any(event["message"] == message for event in self.record["events"]):
            self.event(step, message, kind="evaluation")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id() -> str:
    """Returns an ID for a run that begins now."""
    started = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return f"{started}-{secrets.token_hex(2)}"


def open_on_main_process(opening: Callable[[], RunLog]) -> RunLog:
    """Opens a run on the main process; the others get its folder and a copy of its record."""
    log = opening() if processes.is_main_process() else None
    folder, record = processes.broadcast_from_first(log and [str(log.folder), log.record])
    return log or RunLog(Path(folder), record, lock=None)


def open_new(
    name: str,
    experiment: Any,
    root: Path,
    run_id: str,
    metadata: Mapping[str, Any],
    opened: Callable[[RunLog], Any] = lambda log: None,
) -> RunLog:
    """Creates `root/NAME/ID/` with `metadata` in its record; raises UserError where that cannot be written.

    `opened` is called before the record says that the run is running.
    """
    if not (is_plain_name(name) and is_plain_name(run_id)):
        raise UserError(f"A run cannot be kept in {name!r}/{run_id!r}: give it a plain name without '/'.")
    folder = root / name / run_id
    record = {
        "format": FORMAT,
        "name": name,
        "id": folder.name,
        "status": "running",
        "command": _command(),
        "config": configs.to_json(experiment),
        "started": now(),
        "environment": backend.describe(),
        "git": _git(),
        "stages": {},
        "events": [],
        "resumes": [],
        **metadata,
    }
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        log = RunLog(folder, record, _lock(folder))
        opened(log)
        write_record(folder, record)
    except OSError as error:
        raise UserError(
            f"The run directory {folder} cannot be written ({error.strerror}): free space there or choose another "
            "place with --runs DIR."
        ) from None
    return log


def newest_unfinished(name: str, experiment: Any, root: Path, run_id: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Returns folder and record of the newest run of `name` with this configuration that has not finished.

    Args:
        name: the experiment's name.
        experiment: the configuration.
        root: where run directories are.
        run_id: the ID of the run, where no other will do.

    Raises:
        UserError: there is none; the newest unfinished run computes something else (says which fields differ).
    """
    runs = [run for run in all_runs(root) if run.parent.name == name and run_id in (None, run.name)]
    passed: list[str] = []
    unfinished = (run for run in readable(reversed(runs), passed.append) if run[1]["status"] != "finished")
    newest = next(unfinished, None)
    if newest is None and passed:
        raise UserError(f"There is no unfinished run of {name} under {root}/ that can be read: {passed[0]}")
    for text in passed:
        print_message(text)
    if newest is None:
        raise UserError(f"There is no unfinished run of {name} under {root}/ to resume: start one without --resume.")
    same = (run for run in itertools.chain([newest], unfinished) if not changed_fields(run[1], experiment))
    folder, record = next(same, newest)
    if record.get("format") != FORMAT:
        raise UserError(
            f"{folder} was written by an older version, whose checkpoints have another form: start a new run without "
            f"--resume, from its parameters with --model.source {folder} where the model is a pretrained one."
        )
    changed = changed_fields(record, experiment)
    if changed:
        listed = "; ".join(f"{field} was {old!r} and is now {new!r}" for field, (old, new) in changed.items())
        raise UserError(
            f"The configuration of {folder} has changed: {listed}. Resume with the recorded values, or start a new run "
            "without --resume."
        )
    return folder, record


def open_unfinished(name: str, experiment: Any, root: Path, run_id: str | None = None) -> RunLog:
    """Opens the run that `newest_unfinished` finds, to resume it; raises UserError likewise."""
    folder, record = newest_unfinished(name, experiment, root, run_id)
    log = RunLog(folder, record, _lock(folder))
    if read_record(folder) != record:
        log.close()
        raise UserError(f"Another process has just trained {folder} further: repeat the command.")
    record = {"stages": {}, "events": [], "resumes": [], "data": {}, **record}
    record["status"] = "running"
    record.pop("error", None)
    return dataclasses.replace(log, record=record)


def note_resumption(log: RunLog, step: int) -> None:
    """Records that a run goes on from `step`, and which of the conditions that its bits may depend on have changed."""
    here = {"git": _git(), "environment": backend.describe()}
    moved = configs.differences({part: log.record.get(part) for part in here}, here)
    log.record.update(here)
    log.record["resumes"].append({"step": step, "time": now()})
    if moved:
        listed = "; ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in moved.items())
        log.event(step, f"resumed under other conditions, on which the bits may depend: {listed}", kind="environment")
    log.save()


def computes(field: str) -> bool:
    """Whether a field of the configuration, named with dots, changes what a run computes."""
    return field not in WATCHING and not field.startswith(MESH)


def changed_fields(record: Mapping[str, Any], experiment: Any) -> dict[str, tuple[Any, Any]]:
    """Returns {field: (recorded, now)} where an experiment would compute something else than a recorded run."""
    found = configs.differences(record["config"], configs.to_json(experiment))
    return {field: values for field, values in found.items() if computes(field)}


def _lock(folder: Path) -> int:
    """Locks a run and returns the open file that holds the lock; raises UserError where another process trains it."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): free it, or choose another run.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(f"{folder} is being trained by another process: wait for it, or stop it first.") from None
    return lock


def _command() -> str:
    if not hasattr(sys.modules["__main__"], "__file__"):
        return "# from a notebook or an interactive session"
    spec = sys.modules["__main__"].__spec__
    program = f"python -m {spec.name}" if spec else f"python {Path(sys.argv[0]).name}"
    return " ".join([program.removesuffix(".__main__"), *sys.argv[1:]])


def _git() -> dict[str, Any] | None:
    """The commit of the code, and whether anything differed from it."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
