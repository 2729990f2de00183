"""Promises of a search: points follow from the results that are told, and run directories are all that is kept."""

import json
import math
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
GRID = ("--grid", "optimizer.learning_rate=1e-5..1", "--grid", "batch_size=10..60", "--grid", "model.hidden=4,8")
Trainer = Callable[[Experiment], dict[str, Any]]


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs `python -m research.launch.sweep NAME --search tpe ARGUMENTS` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["sweep", NAME, "--search", "tpe", *arguments])
    try:
        command_line.run(sweep.main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def distance(experiment: Experiment) -> float:
    """How far a learning rate is from 1e-2, in factors of ten, and a batch from 30 examples."""
    return abs(math.log10(experiment.optimizer.learning_rate) + 2) + abs(experiment.batch_size - 30) / 30


def finished(experiment: Experiment) -> dict[str, Any]:
    """What a run records whose losses are that distance."""
    loss = distance(experiment)
    return {"status": "finished", "metrics": {"validation": {"loss": loss, "r2": -loss}, "train": {"loss": -loss}}}


def jobs_of(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, stop_after: int = 10**9) -> list[Experiment]:
    """Has jobs write what `trainer` returns into their records instead of training; returns the list of those begun.

    SIGTERM arrives during the one after `stop_after`.
    """
    begun: list[Experiment] = []

    def run_command(command: Sequence[str], received: list[int]) -> int:
        options = parse(article_regression.CONFIG, args=[word for word in command[3:] if word != "--resume"])
        begun.append(options.experiment)
        ends: dict[str, Any] = {"status": "interrupted"} if len(begun) > stop_after else trainer(options.experiment)
        received += [signal.SIGTERM] * (len(begun) > stop_after)
        if "status" in ends:
            folder = options.runs / NAME / f"20250101-000000-{len(all_runs(options.runs)):03}"
            folder.mkdir(parents=True)
            record = {"name": NAME, "config": to_json(options.experiment), **ends}
            (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
        return 0 if ends.get("status") in ("finished", "interrupted") else 1

    monkeypatch.setattr(sweep_jobs, "run_command", run_command)
    return begun


def test_a_search_without_optuna_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the extra that installs it."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert start(monkeypatch, *GRID, "--draws", "3") == 2
    assert (
        "error: --search tpe needs Optuna, which is not installed: pip install -e '.[optuna]'."
        in capsys.readouterr().err
    )


@pytest.mark.peer
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--grid", "batch_size=0..60"], "--batch-size is 0: give a number from 1"),
        (["--grid", "batch_size=4..-4"], "its first number is to be below its second"),
        (["--grid", "batch_size=4,0"], "--batch-size is 0: give a number from 1"),
    ],
)
def test_values_are_checked_before_the_first_job(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also those that might be asked for last."""
    begun = jobs_of(monkeypatch, finished)
    assert start(monkeypatch, *arguments, "--draws", "1", "--runs", str(tmp_path)) == 2
    assert sentence in capsys.readouterr().err and not begun


@pytest.mark.peer
def test_a_search_approaches_what_is_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Points after the first ten are better on average; the metric of `best` decides, whichever end of it is best."""
    begun = jobs_of(monkeypatch, finished)
    assert start(monkeypatch, *GRID, "--draws", "25", "--runs", str(tmp_path / "loss")) == 0
    found = list(map(distance, begun))
    assert sum(found[10:]) / 15 < sum(found[:10]) / 10
    assert "25 of 25 jobs finished." in capsys.readouterr().out
    best = ["--evaluators.1.best", "r2", "max"]
    assert start(monkeypatch, *GRID, *best, "--draws", "25", "--runs", str(tmp_path / "r2")) == 0
    assert list(map(distance, begun[25:])) == found


@pytest.mark.peer
def test_a_search_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command asks for the points of an uninterrupted one, and repeats none; --report asks for no more."""
    begun = jobs_of(monkeypatch, finished)
    assert start(monkeypatch, *GRID, "--draws", "16", "--seeds", "0..1", "--runs", str(tmp_path / "whole")) == 0
    whole = list(begun)
    arguments = (*GRID, "--draws", "16", "--seeds", "0..1", "--runs", str(tmp_path / "halves"))
    first = jobs_of(monkeypatch, finished, stop_after=25)
    assert start(monkeypatch, *arguments) == 0
    assert first == whole[:26] and "Stopped; the same command continues" in capsys.readouterr().out
    second = jobs_of(monkeypatch, finished)
    assert start(monkeypatch, *arguments, "--report") == 0
    assert not second and "25 of 32 jobs finished, 1 interrupted, 6 not started." in capsys.readouterr().out
    assert start(monkeypatch, *arguments) == 0
    assert second == whole[25:]
    assert start(monkeypatch, *arguments) == 0
    assert len(second) == len(whole) - 25, "a finished search runs nothing"


@pytest.mark.peer
@pytest.mark.parametrize("status", ["failed", None])
def test_a_failed_job_counts_as_the_worst(
    status: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that diverges does: the search goes on, keeps away from it, and does not try a recorded failure again."""

    def trainer(experiment: Experiment) -> dict[str, Any]:
        if experiment.optimizer.learning_rate > 1e-3:
            return {} if status is None else {"status": status, "error": "the loss is not finite"}
        return finished(experiment)

    begun = jobs_of(monkeypatch, trainer)
    arguments = (*GRID[:2], "--draws", "25", "--runs", str(tmp_path))
    assert start(monkeypatch, *arguments) == 2
    assert "each counts as worse than all others" in capsys.readouterr().err
    above = [experiment.optimizer.learning_rate > 1e-3 for experiment in begun]
    assert len(begun) == 25 and sum(above[10:]) / 15 < sum(above[:10]) / 10
    assert start(monkeypatch, *arguments) == (0 if status else 2)
    assert begun[25:] == ([] if status else [each for each, bad in zip(begun[:25], above, strict=True) if bad])
