"""A run directory, `runs/NAME/ID/`: where a run keeps its record and every stage finds it.

`run.json` is the record, `metrics.jsonl` the curves, `chain.jsonl` the hash chain of the steps, `checkpoints/` the
states, `samples/` the images and clips that the model made on the way. Files are replaced atomically, lines appended
whole; a stage adds files and never edits another's.
"""

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from research.core.errors import UserError
from research.core.files import write_atomic
from research.core.json_files import read_json, read_lines
from research.core.renames import upgraded
from research.core.terminal import print_message
from research.runs import schema

RECORD = "run.json"
METRICS = "metrics.jsonl"
CHAIN = "chain.jsonl"
CHECKPOINTS = "checkpoints"
SAMPLES = "samples"
# What is made by running the trained model once more, beside the record, for the report.
PREDICTIONS = "predictions.json"
ATTENTION = "attention.json"


def write_record(run: Path, record: Mapping[str, Any]) -> None:
    """Writes `run.json`."""
    write_atomic(run / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_record(run: Path) -> dict[str, Any]:
    """Reads `run.json`, the configuration of an older one in today's names.

    Raises:
        UserError: there is none, or it is no record: names the field that is wrong.
    """
    path = run / RECORD
    if not path.exists() and not path.is_symlink():
        raise UserError(f"{run} has no {RECORD}: name a run directory, such as runs/gpt_austen/ID, or 'latest'.")
    record = _read(path)
    schema.check(record, schema.RECORD, path)
    return {**record, "config": upgraded(record["config"])}


def _read(path: Path) -> Any:
    try:
        return read_json(path, own=True)
    except UserError as error:
        raise UserError(f"{error} Or restore it from a copy, or train again.") from None


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Reads the lines of `metrics.jsonl`; raises UserError where one is damaged."""
    return _checked_lines(run / METRICS, schema.entry)


def read_chain(run: Path) -> list[dict[str, Any]]:
    """Reads the entries of `chain.jsonl`; raises UserError where one is damaged."""
    return _checked_lines(run / CHAIN, schema.CHAIN_ENTRY)


def _checked_lines(path: Path, form: schema.Form) -> list[dict[str, Any]]:
    lines = list(read_lines(path))
    for number, line in enumerate(lines, start=1):
        schema.check(line, form, f"{path}, line {number}")
    return lines


def read_shown(run: Path, name: str, form: schema.Form) -> dict[str, Any] | None:
    """Reads what the report shows beside the record, None where there is none; raises UserError where it is damaged."""
    path = run / name
    if not path.exists() and not path.is_symlink():
        return None
    value = _read(path)
    schema.check(value, form, path)
    return value


def required(record: Mapping[str, Any], run: Path, *names: str) -> None:
    """Raises UserError where a record lacks what a finished run has."""
    if missing := [name for name in names if name not in record]:
        raise UserError(f"{run / RECORD} has no {missing[0]!r}: restore it from a copy or train again.")


def all_runs(root: Path) -> list[Path]:
    """Returns every run directory under `root`, oldest first.

    IDs begin with the time. Those that a wrong clock dates in the future come first, so that the newest is none of them
    while there are others.
    """
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    limit = tomorrow.strftime("%Y%m%d-%H%M%S")
    runs = (record.parent for record in root.glob(f"*/*/{RECORD}"))
    return sorted(runs, key=lambda run: (not _is_after(run.name, limit), run.name))


def _is_after(run_id: str, limit: str) -> bool:
    return run_id[:8].isdecimal() and run_id > limit


def readable(
    runs: Iterable[Path], report: Callable[[str], Any] = print_message
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the runs with their records; reports which are passed over since theirs cannot be read."""
    for run in runs:
        try:
            record = read_record(run)
        except UserError as error:
            report(f"{run} is passed over: {error}")
        else:
            yield run, record


def find(run: str, root: Path = Path("runs")) -> Path:
    """Resolves RUN; raises UserError where there is none.

    It is a run directory, an experiment's folder such as `runs/gpt_austen`, which means its newest finished run, or the
    word `latest`.
    """
    if run == "latest":
        runs = all_runs(root)
        if not runs:
            raise UserError(f"There is no run under {root}/: train one first, for example with 'make run'.")
        if ahead := [each for each in runs if each.name > runs[-1].name]:
            print_message(f"latest is {runs[-1]}: {ahead[-1]} is dated in the future, and passed over")
        return runs[-1]
    path = Path(run)
    if not (path / RECORD).exists() and not (path / RECORD).is_symlink():
        own = (each for each in reversed(all_runs(path.parent)) if each.parent == path)
        finished = (folder for folder, record in readable(own) if record["status"] == "finished")
        if (newest := next(finished, None)) is not None:
            return newest
        near = ", ".join(str(known) for known in all_runs(root)[-3:]) or "none yet"
        raise UserError(f"{run!r} is not a run directory (no {RECORD} in it); the newest runs are: {near}.")
    return path
