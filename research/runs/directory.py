"""A run directory, `runs/NAME/ID/`: where a run keeps its record and every stage finds it.

`run.json` is the record, `metrics.jsonl` the curves, `chain.jsonl` the hash chain of the steps, `checkpoints/` the
states, `samples/` the images and clips that the model made on the way. Files are replaced atomically, lines appended
whole; a stage adds files and never edits another's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.core.errors import UserError
from research.core.files import write_atomic
from research.core.renames import upgraded

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
        UserError: there is none, or it is no record.
    """
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{run} has no {RECORD}: name a run directory, such as runs/gpt_austen/ID, or 'latest'."
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{run / RECORD} cannot be read ({error}): restore it from a copy or train again.") from None
    missing = [name for name in ("name", "status", "config") if not isinstance(record, dict) or name not in record]
    if missing:
        raise UserError(f"{run / RECORD} is damaged, it has no {missing[0]!r}: restore it from a copy or train again.")
    return {**record, "config": upgraded(record["config"])}


def all_runs(root: Path) -> list[Path]:
    """Returns every run directory under `root`, oldest first."""
    return sorted((record.parent for record in root.glob(f"*/*/{RECORD}")), key=lambda run: run.name)


def find(run: str, root: Path = Path("runs")) -> Path:
    """Resolves RUN; raises UserError where there is none.

    It is a run directory, an experiment's folder such as `runs/gpt_austen`, which means its newest finished run, or the
    word `latest`.
    """
    if run == "latest":
        runs = all_runs(root)
        if not runs:
            raise UserError(f"There is no run under {root}/: train one first, for example with 'make run'.")
        return runs[-1]
    path = Path(run)
    if not (path / RECORD).exists():
        finished = [
            each for each in all_runs(path.parent) if each.parent == path and read_record(each)["status"] == "finished"
        ]
        if finished:
            return finished[-1]
        near = ", ".join(str(known) for known in all_runs(root)[-3:]) or "none yet"
        raise UserError(f"{run!r} is not a run directory (no {RECORD} in it); the newest runs are: {near}.")
    return path
