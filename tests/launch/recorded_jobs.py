"""A sweep of `article_regression` in this process whose jobs write records instead of training."""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments import article_regression
from research.core import command_line
from research.core.configs import to_json
from research.launch import sweep, sweep_jobs
from research.launch.launcher import parse
from research.runs.directory import all_runs
from research.train.experiment import Experiment

NAME = "article_regression"


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs `python -m research.launch.sweep ARGUMENTS` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    try:
        command_line.run(sweep.main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def write_run(root: Path, experiment: Experiment, losses: Sequence[float] = (), **record: Any) -> Path:
    """Writes a run directory as far as a sweep reads it, with these validation losses after steps 10, 20, ..."""
    folder = root / NAME / f"20250101-000000-{len(all_runs(root)):03}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"name": NAME, "config": to_json(experiment), **record}))
    with (folder / "metrics.jsonl").open("w") as file:
        for step, loss in enumerate(losses, start=1):
            print(json.dumps({"step": 10 * step, "kind": "evaluation", "name": "validation", "loss": loss}), file=file)
    return folder


def recorded_jobs(
    monkeypatch: pytest.MonkeyPatch, trainer: Callable[[Experiment], dict[str, Any]], stop_after: int = 10**9
) -> list[Experiment]:
    """Has jobs write what `trainer` returns, if anything, with `write_run`; returns the list of those begun.

    SIGTERM arrives during the one after `stop_after`.
    """
    begun: list[Experiment] = []

    def run_command(command: Sequence[str], received: list[int], _: object) -> int:
        options = parse(article_regression.CONFIG, args=[word for word in command[3:] if word != "--resume"])
        begun.append(options.experiment)
        ends = {"status": "interrupted"} if len(begun) > stop_after else trainer(options.experiment)
        received += [signal.SIGTERM] * (len(begun) > stop_after)
        if ends:
            write_run(options.runs, options.experiment, **ends)
        return 0 if ends.get("status") in ("finished", "interrupted") else 1

    monkeypatch.setattr(sweep_jobs, "run_command", run_command)
    return begun
