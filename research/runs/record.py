"""The record of a run: what `run.json` says, and opening a new run directory.

The record is written when the run starts, at every event and when it ends, so that a killed run can be read,
compared and resumed (`resumable.py`).
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
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
from research.runs.directory import CHAIN, CHECKPOINTS, METRICS, write_record
from research.runs.schema import is_plain_name
from research.runtime import backend, processes

# Stages that are parts of "train": up to the first step, and evaluations, samples and saves.
PARTS_OF_TRAINING = ("first_step", "paused")
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
        "code": own_code(configs.to_json(experiment)),
        "stages": {},
        "events": [],
        "resumes": [],
        **metadata,
    }
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        log = RunLog(folder, record, lock_run(folder))
        opened(log)
        write_record(folder, record)
    except OSError as error:
        raise UserError(
            f"The run directory {folder} cannot be written ({error.strerror}): free space there or choose another "
            "place with --runs DIR."
        ) from None
    return log


def note_resumption(log: RunLog, step: int) -> None:
    """Records that a run goes on from `step`, and which of the conditions that its bits may depend on have changed.

    What it was trained for towards an earlier end, one of `extensions`, has ended at `step` or before.
    """
    if log.lock is not None:
        print_message(f"resuming {log.folder} at step {step}")
    for earlier in log.record.get("extensions", []):
        if earlier["step"] is None:
            ends = f"at step {earlier['steps']}, from here on at step {log.record['config']['steps']}"
            log.event(step, f"trained until here to end {ends}", kind="extension")
            earlier["step"] = step
        earlier["step"] = min(step, earlier["step"])  # a damaged checkpoint has it trained again
    here = {"git": _git(), "environment": backend.describe()}
    changed = configs.differences({part: log.record.get(part) for part in here}, here)
    moved = {name: pair for name, pair in changed.items() if pair[0] is not None}  # an older version recorded less
    log.record.update(here)
    log.record["resumes"].append({"step": step, "time": now()})
    if moved:
        listed = "; ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in moved.items())
        log.event(step, f"resumed under other conditions, on which the bits may depend: {listed}", kind="environment")
    log.save()


def lock_run(folder: Path) -> int:
    """Locks a run and returns the open file that holds the lock; raises UserError where another process trains it."""
    try:
        opened = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): free it, or choose another run.") from None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise UserError(f"{folder} is being trained by another process: wait for it, or stop it first.") from None
    return opened


def _command() -> str:
    if not hasattr(sys.modules["__main__"], "__file__"):
        return "# from a notebook or an interactive session"
    spec = sys.modules["__main__"].__spec__
    program = f"python -m {spec.name}" if spec else f"python {Path(sys.argv[0]).name}"
    return " ".join([program.removesuffix(".__main__"), *sys.argv[1:]])


def own_code(config: Any) -> dict[str, str]:
    """Returns the SHA-256 of the file of each module outside this project whose classes a configuration names."""
    digests = {}
    for name in configs.own_modules(config):
        main = sys.modules["__main__"]
        module = main if main.__spec__ and main.__spec__.name == name else sys.modules.get(name)
        with contextlib.suppress(OSError):
            if file := getattr(module, "__file__", None):
                digests[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return digests


def changed_code(record: Mapping[str, Any]) -> list[str]:
    """Returns the modules outside this project, loaded here, whose files are not those of a recorded run."""
    now = own_code(record["config"])
    return [name for name, digest in record.get("code", {}).items() if now.get(name) != digest]


def changed_data(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {file or folder: (digest then, now)} where the data of a record, as `Data.summary`, are others now.

    >>> changed_data({"files": {"a.csv": "04f5", "b.csv": "77d1"}}, {"files": {"a.csv": "04f5", "b.csv": "a0a0"}})
    {'b.csv': ('77d1', 'a0a0')}
    """

    def digests(summary: Mapping[str, Any]) -> dict[str, Any]:
        folder = {str(summary.get("name")): summary["digest"]} if "digest" in summary else {}
        return {**(summary.get("files") or {}), **folder}

    return configs.differences(digests(recorded), digests(now)) if digests(recorded) else {}


def _git() -> dict[str, Any] | None:
    """The commit of the code, and whether anything differed from it."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
