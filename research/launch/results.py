"""Runs every experiment with its fixed seed and writes RESULTS.md: `make results [ARGS="article_binary mlp_adult"]`.

An experiment's `EXPECTED` names the metrics to report, as "split.metric", and the range each must fall into. Named
experiments alone are run again; the rows of the others stay.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from research.core import command_line
from research.core.errors import UserError
from research.core.files import write_atomic
from research.launch.discovery import experiments_folder, modules
from research.report.record_tables import device
from research.runs.directory import all_runs, read_record, required
from research.runs.record import PARTS_OF_TRAINING

TABLE = experiments_folder() / "RESULTS.md"
HEADER = """# Results

Written by `make results`: every experiment with its fixed seed, as `python -m experiments.NAME` runs it. Seconds are
wall time without the imports on the machine named below and vary; metrics and hashes do not, on the same kind of
processor with Python 3.11 and its versions in `constraints.txt` (jax 0.10.1). Another jax may give others.

Rows that say only "cpu" are older and name no processor; another one gives other hashes. On an AMD EPYC (family 25,
model 1), gpt_austen ends at 1.2777 nats with `d252963e45f3...`, in this version and in 0.1.0.

"""
COLUMNS = ("experiment", "metric", "expected", "measured", "seconds", "SHA-256 of the parameters", "machine")


def measured(record: dict[str, Any], metric: str) -> float:
    """Returns a metric, named "split.metric", of a finished run's record."""
    split, name = metric.split(".")
    return record["metrics"][split][name]


def read_rows() -> dict[tuple[str, str], list[str]]:
    """Returns the rows of RESULTS.md by (experiment, metric)."""
    if not TABLE.exists():
        return {}
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], row[1]): row for row in rows}


def expected(name: str) -> dict[str, tuple[float, float]]:
    """Returns the metrics that an experiment reports, with the range of each; none where it is not for training."""
    return importlib.import_module(f"experiments.{name}").EXPECTED


def run_experiment(name: str) -> list[list[str]]:
    """Runs an experiment in a process of its own; returns its rows."""
    if not expected(name):
        raise UserError(f"The experiment {name} expects no number, for it is not trained here: leave it out.")
    if subprocess.run([sys.executable, "-m", f"experiments.{name}"]).returncode:
        raise UserError(f"The experiment {name} failed: see its message above.")
    run = [run for run in all_runs(Path("runs")) if run.parent.name == name][-1]
    record = read_record(run)
    if record["status"] != "finished":
        raise UserError(f"The experiment {name} is {record['status']}, not finished: start make results again.")
    required(record, run, "environment", "metrics", "params_sha256")
    machine = f"{record['environment']['thread_pool']} threads, {device(record)}"
    seconds = sum(took for stage, took in record["stages"].items() if stage not in PARTS_OF_TRAINING)
    facts = [f"{seconds:.0f}", f"`{record['params_sha256']}`", machine]
    return [
        [name, metric, f"{low:g} to {high:g}", f"{measured(record, metric):.4f}", *facts]
        for metric, (low, high) in expected(name).items()
    ]


def main() -> None:
    names = sys.argv[1:] or [name for name in modules() if expected(name)]
    if unknown := set(names) - set(modules()):
        raise UserError(f"There is no experiment {min(unknown)!r}: there are {', '.join(modules())}.")
    rows = read_rows()
    for name in names:
        rows = {key: row for key, row in rows.items() if key[0] != name and key[0] in modules()}
        rows.update({(row[0], row[1]): row for row in run_experiment(name)})
        ordered = [COLUMNS, ["---"] * len(COLUMNS), *(rows[key] for key in sorted(rows))]
        write_atomic(TABLE, HEADER + "".join(f"| {' | '.join(row)} |\n" for row in ordered))


if __name__ == "__main__":
    command_line.run(main)
