"""The record of a run: opening a new run directory or the newest unfinished one, and what `run.json` says.

The record is written when the run starts, at every event and when it ends, so that a killed run can be read,
compared and resumed.
"""

import dataclasses
import datetime
import fcntl
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from research.core import backend, configs
from research.core.errors import UserError
from research.core.run_directory import CHECKPOINTS, all_runs, read_record, write_record

# Fields that change how a run is watched, but not what it computes: free to differ when it is resumed.
WATCHING = ("log_every", "evaluate_every", "checkpoint_every", "sample_every", "keep_last", "loggers")


@dataclasses.dataclass
class RunLog:
    """An open run: its folder, its record, which `save` writes, and the lock that keeps others out until `close`."""

    folder: Path
    record: dict[str, Any]
    lock: int

    def save(self) -> None:
        """Writes the record as it stands."""
        write_record(self.folder, self.record)

    def close(self) -> None:
        """Lets others open the run; the end of the process, however it ends, does so too."""
        os.close(self.lock)

    def event(self, step: int, message: str) -> None:
        """Notes something a reader of the report must know, and says it on standard error."""
        self.record["events"].append({"step": step, "time": now(), "message": message})
        print(f"step {step}: {message}", file=sys.stderr, flush=True)
        self.save()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def open_new(name: str, experiment: Any, root: Path) -> RunLog:
    """Creates `root/NAME/ID/`; raises UserError where that cannot be written."""
    started = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    folder = root / name / f"{started}-{secrets.token_hex(2)}"
    record = {
        "format": 1,
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
    }
    try:
        (folder / CHECKPOINTS).mkdir(parents=True)
        lock = _lock(folder)
        write_record(folder, record)
    except OSError as error:
        raise UserError(
            f"The run directory {folder} cannot be written ({error.strerror}): free space there or choose another "
            "place with --runs DIR."
        ) from None
    return RunLog(folder, record, lock)


def open_unfinished(name: str, experiment: Any, root: Path) -> RunLog:
    """Opens the newest run of `name` that has not finished, to resume it.

    Raises:
        UserError: there is none, or its configuration computes something else (says which fields differ).
    """
    records = ((run, read_record(run)) for run in reversed(all_runs(root)) if run.parent.name == name)
    folder, record = next(((run, record) for run, record in records if record["status"] != "finished"), (root, {}))
    if not record:
        raise UserError(f"There is no unfinished run of {name} under {root}/ to resume: start one without --resume.")
    changed = configs.differences(record["config"], configs.to_json(experiment))
    changed = {field: values for field, values in changed.items() if field not in WATCHING}
    if changed:
        listed = "; ".join(f"{field} was {old!r} and is now {new!r}" for field, (old, new) in changed.items())
        raise UserError(
            f"The configuration of {folder} has changed: {listed}. Resume with the recorded values, or start a new run "
            "without --resume."
        )
    log = RunLog(folder, record, _lock(folder))
    if read_record(folder) != record:
        log.close()
        raise UserError(f"Another process has just trained {folder} further: repeat the command.")
    now_here = {"git": _git(), "environment": backend.describe()}
    moved = configs.differences({part: record[part] for part in now_here}, now_here)
    record.update(now_here, status="running")
    record.pop("error", None)
    if moved:
        listed = "; ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in moved.items())
        log.event(0, f"resumed under other conditions, on which the bits may depend: {listed}")
    return log


def _lock(folder: Path) -> int:
    """Locks a run and returns the open file that holds the lock; raises UserError where another process trains it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
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
