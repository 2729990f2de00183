"""Runs a recorded run again and compares, to the bit: `python -m research.reproduce RUN`.

The recorded configuration is trained again, in the recorded thread-pool size, and the hash chains of the steps and
the final parameters are compared: `identical`, or the first step that differs and what differs in the environment.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from research.core import command_line, configs
from research.core.errors import UserError
from research.core.terminal import say
from research.runs.chain import first_difference
from research.runs.directory import find, read_chain, read_record, required
from research.runs.record import changed_data
from research.runtime import backend
from research.train.experiment import Experiment
from research.train.recorded_run import Run, recorded_experiment
from research.train.run import train


@dataclasses.dataclass(frozen=True)
class Options:
    """What to reproduce."""

    run: Annotated[str, tyro.conf.Positional]
    """a run directory, or 'latest'"""
    runs: Path = Path("runs")
    """where the new run goes"""
    trust: command_line.Trust = ()


def main() -> None:
    options = command_line.parse(Options, description=__doc__ or "")
    folder = find(options.run, options.runs)
    record = read_record(folder)
    if record["status"] != "finished":
        raise UserError(f"{folder} is {record['status']}, not finished: finish it with --resume first.")
    required(record, folder, "environment", "params_sha256")
    _use_thread_pool(record["environment"]["thread_pool"])
    chain = read_chain(folder)
    again = _trained_again(record, recorded_experiment(record, folder, options.trust), options.runs)
    if again.record["status"] != "finished":
        raise UserError(
            f"The second run stopped at step {int(again.state.step)}; resume it, then use research.compare."
        )
    difference = first_difference(chain, read_chain(again.folder))
    same_params = difference is None and again.record["params_sha256"] == record["params_sha256"]
    others = result_differences(record, read_record(again.folder))
    if same_params and not others:
        say(f"identical: {again.record['params_sha256']} ({folder} and {again.folder})")
        return
    if same_params:
        say(f"equal parameters, but other data or results ({folder} and {again.folder})")
    else:
        step, parts = difference or (int(again.state.step), ["params"])
        say(f"different from step {step} on, first in: {', '.join(parts)} ({folder} and {again.folder})")
        others = environment_differences(record, dict(again.record))
    for name, (old, new) in others.items():
        say(f"  {name}: {old} then, {new} now")
    sys.exit(1)


def _trained_again(record: Mapping[str, Any], experiment: Experiment, root: Path) -> Run:
    """Trains a recorded run again: in parts, as it was, if its end was moved on the way."""
    name, run_id = record["name"], None
    for part in record.get("extensions", []):
        shorter = dataclasses.replace(experiment, steps=part["steps"])
        run = train(shorter, name=name, root=root, run_id=run_id, stop_after=part["step"])
        run_id = run.folder.name
        if int(run.state.step) != part["step"]:
            return run
    return train(experiment, name=name, root=root, run_id=run_id)


def result_differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {name: (left, right)} of the files of the data, and of the metrics that both records have."""
    files = changed_data(left.get("data", {}), right.get("data", {}))
    first, second = (dict(configs.flatten_config({"metrics": record.get("metrics", {})})) for record in (left, right))
    metrics = {name: (first[name], second[name]) for name in first if name in second and first[name] != second[name]}
    return {f"data.files.{name}": digests for name, digests in files.items()} | metrics


def environment_differences(left: dict[str, Any], right: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {name: (left, right)} of what differs in the environments and the code of two records."""
    parts = ("environment", "git", "code", "data")
    first, second = ({part: record.get(part) for part in parts} for record in (left, right))
    return configs.differences(first, second)


def _use_thread_pool(size: int) -> None:
    """Starts this program again with the recorded thread-pool size, on which the bits depend, if it is another."""
    if backend.thread_pool_size() != size:
        arguments = [sys.executable, "-m", "research.reproduce", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "NPROC": str(size)})


if __name__ == "__main__":
    command_line.run(main)
