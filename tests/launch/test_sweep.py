"""Promises of a sweep: its jobs are ordinary runs, checked before any starts, and what is done is never done again."""

import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from recorded_jobs import NAME, recorded_jobs, start, write_run
from tiny_run import Program, record, run_module, steps_noted, wait_for_step

from experiments import article_regression
from research.core import command_line
from research.core.configs import to_json
from research.launch import launcher, sweep, sweep_jobs
from research.launch.discovery import modules
from research.runs.directory import all_runs
from research.train.experiment import Experiment
from research.train.run import train

SHORT = ("--steps", "20", "--log-every", "5", "--evaluate-every", "10")
GRID = ("--grid", "optimizer.learning_rate=1e-3,1e-2", "--seeds", "0..1")


def jobs_here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Has a sweep run its jobs in this process, and returns the list that their commands are appended to."""
    commands: list[list[str]] = []

    def run_command(command: Sequence[str], *_: object) -> int:
        commands.append(list(command))
        assert command[:2] == [sys.executable, "-m"]
        return run_module(*command[2:])

    monkeypatch.setattr(sweep_jobs, "run_command", run_command)
    return commands


def run_until_bad(command: Sequence[str], _: Sequence[int], is_bad: Callable[[], bool]) -> int:
    """Runs a job in this process until it is bad, then has it get SIGTERM."""

    def watch() -> None:
        while not is_bad():
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return run_module(*command[2:])


def configured(*options: str) -> Experiment:
    """Returns the configuration that the experiment's own command line makes of these options."""
    default = launcher.Options(article_regression.CONFIG)
    return command_line.parse(launcher.Options, default, args=[*SHORT, *options]).experiment


@pytest.fixture(scope="module")
def half_done_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `half_done` is a copy of."""
    rates, root = ("1e-3", "1e-2"), tmp_path_factory.mktemp("sweep") / "runs"
    first, second, _, last = (
        configured("--optimizer.learning-rate", rate, "--seed", seed) for rate in rates for seed in ("0", "1")
    )
    train(first, name=NAME, root=root)
    train(second, name=NAME, root=root, stop_after=7)
    train(last, name=NAME, root=root)
    train(configured("--seed", "5"), name=NAME, root=root, stop_after=3)
    return root


@pytest.fixture
def half_done(half_done_once: Path, tmp_path: Path) -> Path:
    """The runs of a sweep of two rates and two seeds: first and last finished, the second stopped at step 7.

    The newest unfinished run is of another configuration.
    """
    return shutil.copytree(half_done_once, tmp_path / "runs")


def test_the_commands_are_those_of_the_jobs_still_to_do(
    half_done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--print gives one command a line and nothing else, in order, each of the configuration meant; runs nothing."""
    before = all_runs(half_done)
    capsys.readouterr()
    assert start(monkeypatch, NAME, *GRID, *SHORT, "--print", "--runs", str(half_done)) == 0
    second, third = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    for command, point in ((second[:-1], ("1e-3", "1")), (third, ("1e-2", "0"))):
        assert command[:3] == ["python", "-m", f"experiments.{NAME}"]
        options = command_line.parse(launcher.Options, launcher.Options(article_regression.CONFIG), args=command[3:])
        assert options.experiment == configured("--optimizer.learning-rate", point[0], "--seed", point[1])
        assert options.runs == half_done and not options.resume
    assert second[-1] == "--resume", "the one that was stopped is continued"
    assert all_runs(half_done) == before


def test_a_half_finished_sweep_continues(
    half_done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What finished is not run again, what stopped ends with the bits of an uninterrupted run; all is compared."""
    before, commands = all_runs(half_done), jobs_here(monkeypatch)
    arguments = (NAME, *GRID, *SHORT, "--runs", str(half_done))
    assert start(monkeypatch, *arguments) == 0
    assert ["--resume" in command for command in commands] == [True, False]
    new = [run for run in all_runs(half_done) if run not in before]
    assert [record(run)["config"] for run in new] == [
        to_json(configured("--optimizer.learning-rate", "1e-2", "--seed", "0"))
    ]
    uninterrupted = train(
        configured("--optimizer.learning-rate", "1e-3", "--seed", "1"), name=NAME, root=tmp_path / "clean"
    )
    assert record(before[1])["params_sha256"] == uninterrupted.record["params_sha256"]
    assert record(before[3])["status"] == "interrupted", "the run of another configuration is not the sweep's"
    page = (half_done / NAME / "sweep.html").read_text(encoding="utf-8")
    assert "4 of 4 jobs finished" in page and 'class="band' in page

    capsys.readouterr()
    assert start(monkeypatch, *arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert len(commands) == 2, "a finished sweep runs nothing"
    assert "4 of 4 jobs finished." in shown and "±" in shown and "best by validation loss" in shown
    assert all_runs(half_done) == sorted([*before, *new])


def test_a_report_runs_nothing(
    half_done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--report compares what there is."""
    commands = jobs_here(monkeypatch)
    assert start(monkeypatch, NAME, *GRID, *SHORT, "--report", "--runs", str(half_done)) == 0
    assert "2 of 4 jobs finished, 1 interrupted, 1 not started." in capsys.readouterr().out
    assert not commands


def test_a_job_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other jobs run, the sweep ends with exit code 2 and names the one that failed."""
    jobs_here(monkeypatch)
    grid = ("--grid", "schedule.warmup=20,0")
    assert start(monkeypatch, NAME, *grid, *SHORT, "--runs", str(tmp_path)) == 2
    shown = capsys.readouterr()
    assert "1 of 2 jobs finished, 1 not started" in shown.out
    assert "error: 1 of 2 jobs failed (schedule.warmup 20, seed 0): see their messages above" in shown.err


def test_sigterm_reaches_the_job_and_stops_the_sweep(tmp_path: Path) -> None:
    """The running job saves its step, no other begins, and the sweep exits with 0 and says how to continue."""
    runs = ("--runs", str(tmp_path / "runs"))
    steps = ("--steps", "200000", "--log-every", "10")
    with Program("research.launch.sweep", NAME, "--seeds", "0..2", *steps, *runs) as started:
        wait_for_step(tmp_path, 20, started)
        started.send_signal(signal.SIGTERM)
        output = started.output()
    assert started.returncode == 0, output[-2000:]
    (run,) = all_runs(tmp_path / "runs")
    assert record(run)["status"] == "interrupted"
    assert f"Interrupted at step {steps_noted(tmp_path)}, saved" in output
    assert "Stopped; the same command continues: python -m research.launch.sweep article_regression --seeds" in output


def test_a_job_that_is_worse_than_the_others_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It saves, is marked, shown as such and not continued by the same command, but by one without --stop-bad."""
    long = ("--steps", "200000", "--log-every", "10", "--evaluate-every", "10")
    rates = ("1e-9", "1e-2", "2e-2", "3e-2", "4e-2")
    for rate in rates[1:]:
        options = launcher.parse(article_regression.CONFIG, args=[*long, "--optimizer.learning-rate", rate])
        metrics = {"validation": {"loss": 0.01}}
        write_run(tmp_path, options.experiment, losses=[0.02, 0.01], status="finished", metrics=metrics)
    monkeypatch.setattr(sweep_jobs, "run_command", run_until_bad)
    grid = ("--grid", f"optimizer.learning_rate={','.join(rates)}", *long, "--runs", str(tmp_path))
    assert start(monkeypatch, NAME, *grid, "--stop-bad") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "stopped early: at step 10 its validation loss was worse than the median of the others" in shown
    assert "4 of 5 jobs finished, 1 stopped early." in shown and "0 of 1, 1 stopped early" in shown
    (stopped,) = (run for run in all_runs(tmp_path) if record(run)["status"] != "finished")
    assert (record(stopped)["status"], record(stopped)["tags"]) == ("interrupted", ["stopped-early"])
    assert list((stopped / "checkpoints").iterdir()), "it has saved"

    commands: list[Sequence[str]] = []
    monkeypatch.setattr(sweep_jobs, "run_command", lambda command, *_: commands.append(command) or 1)
    for folder in all_runs(tmp_path):
        (folder / "metrics.jsonl").write_text("")  # whatever the others did since
    assert start(monkeypatch, NAME, *grid, "--stop-bad") == 0
    assert not commands
    assert start(monkeypatch, NAME, *grid) == 2
    assert [command[-1] for command in commands] == ["--resume"] and record(stopped)["tags"] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["article_regresion"], "no experiment 'article_regresion': the nearest is 'article_regression'"),
        ([NAME, "--grid", "optimizer.clips=1,2"], "no field 'optimizer.clips': the nearest is 'optimizer.clip'"),
        ([NAME, "--grid", "optimizer.peak=1,2"], "'optimizer.peak' is now called 'optimizer.learning-rate'"),
        ([NAME, "--grid", "learning_rate=1"], "no field 'learning_rate'"),
        ([NAME, "--grid", "optimizer.type=a"], "no field 'optimizer.type'"),
        ([NAME, "--grid", "optimizer.clip=1,fast"], "could not convert string to float: 'fast'"),
        ([NAME, "--grid", "optimizer.learning_rate"], "gives no values"),
        ([NAME, "--grid", "optimizer.learning_rate=1,,2"], "gives no values"),
        ([NAME, "--grid", "batch_size=0,50"], "--batch-size is 0: give a number from 1"),
        ([NAME, "--seeds", "0..999999999"], "are more than 1000 seeds"),
        (
            [NAME, "--seeds", "0..99", "--grid", "steps=1,2,3,4,5,6,7,8,9,10,11"],
            "1100 jobs, and 1000 are the most",
        ),
        ([NAME, "--grid", "steps=1", "--grid", "steps=2"], "--grid steps is given twice"),
        ([NAME, "--grid", "seed=1,2"], "seeds with --seeds"),
        ([NAME, "--grid", "log_every=1,2"], "changes nothing that a run computes"),
        ([NAME, "--grid", "optimizer.learning_rate=1e-3,0.001"], "Two jobs are the same"),
        (
            [NAME, "--grid", "optimizer.learning_rate=1e-4..1e-2"],
            "_rate is a range: say with --draws how many",
        ),
        ([NAME, "--grid", "optimizer.clip=0.5..2..3", "--draws", "3"], "=0.5..2..3 is no range: write it as LOW..HIGH"),
        ([NAME, "--draws", "3"], "--draws draws from grids: give one"),
        ([NAME, "--grid", "steps=20..40", "--draws", "600", "--seeds", "0..1"], "1200 jobs, and 1000 are the most"),
        ([NAME, "--grid", "optimizer.clip=1,2", "--draws", "-1"], "--draws is -1: give a number from 0"),
        ([NAME, "--grid", "batch_size=-9..0", "--draws", "1"], "--batch-size is -"),
        ([NAME, "--search", "tpe", "--grid", "steps=1,2"], "say with --draws how many points"),
        ([NAME, "--search", "tpe", "--grid", "steps=1,2", "--draws", "2", "--print"], "depend on results"),
        ([NAME, "--stop-bad", "--grid", "steps=1,2", "--print"], "--print runs none"),
        (
            [NAME, "--stop-bad", "--grid", "steps=1,2", "--evaluate-every", "0"],
            "say with --evaluate-every when they are",
        ),
        ([NAME, "--seeds", "2..0"], "--seeds 2..0 is not a list of seeds"),
        ([NAME, "--seeds", "one"], "--seeds one is not a list of seeds"),
        ([NAME, "--seeds", "1,1"], "Two jobs are the same"),
        ([NAME, "--stepps", "3"], "--steps INT"),
        ([NAME, "--resume"], "leave out --resume"),
        (["nanogpt_cpu", "--grid", "model.bias=yes,no"], "The field 'model.bias' is true or false, not 'yes'"),
    ],
)
def test_a_mistake_is_refused_before_any_job_starts(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One message says what is wrong, with the nearest right name; the exit code is 2, and nothing has begun."""
    commands = jobs_here(monkeypatch)
    assert start(monkeypatch, *arguments, "--runs", str(tmp_path)) == 2
    assert sentence in capsys.readouterr().err
    assert not commands and not list(tmp_path.iterdir())


def test_values_reach_fields_of_every_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, words, tuples and truth values are swept, by names with either dash; the product keeps its order."""
    grid = ("schedule.kind=cosine,linear", "model.bias=true,False", "evaluators.0.batch-size=8", "model.mlp_dim=16")
    options = sweep.Options("nanogpt_cpu", grid=grid, seeds="3")
    space, jobs = sweep.plan(options, ["--steps", "7"])
    assert list(space.grid) == ["schedule.kind", "model.bias", "evaluators.0.batch_size", "model.mlp_dim"]
    made = [(job.experiment.schedule.kind, job.experiment.model.bias) for job in jobs]
    assert made == [("cosine", True), ("cosine", False), ("linear", True), ("linear", False)]
    for job in jobs:
        experiment = job.experiment
        assert (experiment.evaluators[0].batch_size, experiment.model.mlp_dim, experiment.steps) == (8, 16, 7)
        assert experiment.seed == 3 == job.seed
    _, (job,) = sweep.plan(sweep.Options(NAME, grid=("model.hidden=16 8",)), [])
    assert job.experiment.model.hidden == (16, 8)


def test_a_random_sweep_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command draws the same points, each for every seed: with more draws, only the new ones are run."""
    begun = recorded_jobs(monkeypatch, lambda _: {"status": "finished", "metrics": {"validation": {"loss": 1.0}}})
    grid = ("--grid", "optimizer.learning_rate=1e-4..1e-2", "--seeds", "0..1")
    assert start(monkeypatch, NAME, *grid, *SHORT, "--runs", str(tmp_path), "--draws", "1") == 0
    assert start(monkeypatch, NAME, *grid, *SHORT, "--runs", str(tmp_path), "--draws", "2") == 0
    assert "4 of 4 jobs finished." in capsys.readouterr().out
    rates = [experiment.optimizer.learning_rate for experiment in begun]
    assert rates[::2] == rates[1::2] and len(set(rates)) == 2 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert [experiment.seed for experiment in begun] == [0, 1, 0, 1]
    other = sweep.Options(NAME, grid=grid[1:2], draws=1, draw_seed=1)
    assert sweep.plan(other, SHORT)[1][0].experiment.optimizer.learning_rate not in rates


def test_equal_draws_are_taken_once() -> None:
    """Two values give two points however often they are drawn, written in two ways or not."""
    for values in ("4,8", "4,8,08"):
        _, jobs = sweep.plan(sweep.Options(NAME, grid=(f"model.hidden={values}",), draws=20), SHORT)
        assert sorted(job.experiment.model.hidden for job in jobs) == [(4,), (8,)]


def test_a_sweep_is_no_experiment() -> None:
    """`python -m experiments` lists what can be swept, not the sweep."""
    assert NAME in modules() and "sweep" not in modules()
