"""Promises of a search: points follow from the results that are told, and run directories are all that is kept."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from recorded_jobs import NAME, recorded_jobs, start, write_run

from experiments.article_regression import CONFIG
from research.launch.sweep_jobs import Space
from research.launch.sweep_search import curve_until_stopped, mean_result
from research.train.experiment import Experiment

SEARCH = (NAME, "--search", "tpe")
GRID = (
    *SEARCH,
    "--grid",
    "optimizer.learning_rate=1e-5..1",
    "--grid",
    "batch_size=10..60",
    "--grid",
    "model.hidden=4,8",
)


def distance(experiment: Experiment) -> float:
    """How far a learning rate is from 1e-2, in factors of ten, and a batch from 30 examples."""
    return abs(math.log10(experiment.optimizer.learning_rate) + 2) + abs(experiment.batch_size - 30) / 30


def finished(experiment: Experiment) -> dict[str, Any]:
    """What a run records whose losses are that distance."""
    loss = distance(experiment)
    return {"status": "finished", "metrics": {"validation": {"loss": loss, "r2": -loss}, "train": {"loss": -loss}}}


def test_a_search_without_optuna_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the extra that installs it."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert start(monkeypatch, *GRID, "--draws", "3") == 2
    assert (
        "error: --search tpe needs a package that is not installed: pip install -e '.[optuna]'."
        in capsys.readouterr().err
    )


@pytest.mark.peer
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--grid", "batch_size=0..60"], "--batch-size is 0: give a number from 1"),
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
    begun = recorded_jobs(monkeypatch, finished)
    assert start(monkeypatch, *SEARCH, *arguments, "--draws", "1", "--runs", str(tmp_path)) == 2
    assert sentence in capsys.readouterr().err
    assert begun == []


@pytest.mark.peer
def test_a_search_approaches_what_is_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Points after the first ten are better on average; the metric of `best` decides, whichever end of it is best."""
    arguments = (*GRID, "--draws", "16")
    begun = recorded_jobs(monkeypatch, finished)
    assert start(monkeypatch, *arguments, "--runs", str(tmp_path / "loss")) == 0
    found = list(map(distance, begun))
    assert sum(found[10:]) / 6 < sum(found[:10]) / 10
    assert "16 of 16 jobs finished." in capsys.readouterr().out
    best = ["--evaluators.1.best", "r2", "max"]
    assert start(monkeypatch, *arguments, *best, "--runs", str(tmp_path / "r2")) == 0
    assert list(map(distance, begun[16:])) == found


@pytest.mark.peer
def test_a_search_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command asks for the points of an uninterrupted one, and repeats none; --report asks for no more."""
    whole = recorded_jobs(monkeypatch, finished)
    arguments = (*GRID, "--draws", "14")
    assert start(monkeypatch, *arguments, "--runs", str(tmp_path / "whole")) == 0
    arguments = (*arguments, "--runs", str(tmp_path / "halves"))
    first = recorded_jobs(monkeypatch, finished, stop_after=12)
    assert start(monkeypatch, *arguments) == 0
    assert first == whole[:13] and "Stopped; the same command continues" in capsys.readouterr().out
    second = recorded_jobs(monkeypatch, finished)
    assert start(monkeypatch, *arguments, "--report") == 0
    assert not second and "12 of 14 jobs finished, 1 interrupted, 1 not started." in capsys.readouterr().out
    assert start(monkeypatch, *arguments) == 0
    assert start(monkeypatch, *arguments) == 0, "a finished search runs nothing"
    assert second == whole[12:]


@pytest.mark.peer
def test_equal_draws_are_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search over two values ends after the draws asked for, with two points."""
    begun = recorded_jobs(monkeypatch, finished)
    arguments = (*SEARCH, "--grid", "batch_size=20,30", "--draws", "8", "--draw-seed", "1", "--runs", str(tmp_path))
    assert start(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert len(begun) == 2 and "2 of 2 jobs finished." in shown and "job 2 of 8: batch_size" in shown


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

    begun = recorded_jobs(monkeypatch, trainer)
    arguments = (*SEARCH, "--grid", "optimizer.learning_rate=1e-5..1", "--draws", "16", "--runs", str(tmp_path))
    assert start(monkeypatch, *arguments) == 2
    assert "each counts as worse than all others" in capsys.readouterr().err
    above = [experiment.optimizer.learning_rate > 1e-3 for experiment in begun]
    assert len(begun) == 16 and sum(above[10:]) / 6 < sum(above[:10]) / 10
    assert start(monkeypatch, *arguments) == (0 if status else 2)
    assert begun[16:] == ([] if status else [each for each, bad in zip(begun[:16], above, strict=True) if bad])


def test_a_point_is_judged_by_its_finished_runs(tmp_path: Path) -> None:
    """The mean of the metric that decides; without a finite one, a run that was stopped early gives its evaluations."""
    highest = dataclasses.replace(CONFIG.evaluators[1], best=("r2", "max"))
    spaces = [
        Space(NAME, CONFIG, (), dataclasses.replace(CONFIG, evaluators=(evaluator,)), {}, (0,), tmp_path)
        for evaluator in (CONFIG.evaluators[1], highest)
    ]

    def ended(status: str, loss: float, *tags: str) -> tuple[Path, dict[str, Any]]:
        record = {"status": status, "tags": list(tags), "metrics": {"validation": {"loss": loss, "r2": -2 * loss}}}
        return write_run(tmp_path, CONFIG, [loss, loss / 2], **record), record

    good = [ended("finished", 1.0), ended("finished", 3.0), ended("failed", 9.0), None]
    assert [mean_result(space, good) for space in spaces] == [2.0, -4.0]
    bad = [ended("finished", math.nan), ended("interrupted", 6.0), ended("interrupted", 4.0, "stopped-early")]
    assert [mean_result(space, bad) for space in spaces] == [None, None]
    assert curve_until_stopped(spaces[0], bad) == {10: 4.0, 20: 2.0} and curve_until_stopped(spaces[0], good) == {}
