"""Promises of runs on several processes: the numbers of one, a common end, and a new start when one is lost."""

import math
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tiny_run import Program, only_run, steps_noted, wait_for_step, workers
from tiny_run import record as read_record

from research.core.json_files import read_lines
from research.report.html import REPORT
from research.runs.directory import CHAIN, METRICS, RECORD

# A small network with dropout: nearly all of the time goes into starting processes.
OPTIONS = (
    *("experiments.article_softmax", "--model.dropout", "0.1", "--accumulate", "2", "--log-every", "1"),
    *("--evaluate-every", "0", "--checkpoint-every", "20", "--digest-every", "50"),
)
NAME = "article_softmax"
TWO = ("--local-processes", "2")
ENDS = ("params_sha256", "chain")

STEPS = 300  # of the runs that are killed ten times each
LONG = ("--steps", str(STEPS), "--evaluate-every", str(STEPS), "--checkpoint-every", "10")
FINISHED = "finished"  # in the record
AGAIN, FIRST_STEP = "starting again", "first step after"  # what they print


def command(folder: Path, *options: str) -> list[str]:
    """Returns the arguments of a run under `folder`."""
    return [*OPTIONS, "--runs", str(folder / "runs"), *options]


def record(folder: Path) -> dict[str, Any]:
    """Returns the record of the run under `folder`."""
    return read_record(only_run(folder, NAME))


def uninterrupted(folder: Path, *options: str, devices: int = 2) -> dict[str, Any]:
    """Trains on one process with so many devices; returns the record."""
    with Program(*command(folder, *options), JAX_NUM_CPU_DEVICES=str(devices)) as run:
        output = run.output()
    assert run.returncode == 0, output
    return record(folder)


def lose(folder: Path, run: Program, victim: int, how: signal.Signals) -> float:
    """Sends a signal to a worker that has saved; returns the seconds until the run trains again."""
    resumes, began = len(record(folder)["resumes"]), time.monotonic()
    os.kill(victim, how)
    while len(now := record(folder)["resumes"]) == resumes or steps_noted(folder) <= now[-1]["step"]:
        assert run.poll() is None and time.monotonic() - began < 120, run.output()[-2000:]
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.slow
def test_two_processes_stop_through_one_alone(tmp_path: Path) -> None:
    """SIGTERM to either of them saves the same step, and ends both with 0."""
    with Program(*command(tmp_path, *TWO, "--steps", "250")) as stopped:
        wait_for_step(tmp_path, 27, stopped)
        os.kill(workers(stopped)[1], signal.SIGTERM)
        output, reached = stopped.output(), steps_noted(tmp_path)
    assert stopped.returncode == 0 and f"Interrupted at step {reached}, saved" in output, output
    assert (only_run(tmp_path, NAME) / "checkpoints" / f"{reached:08d}.json").exists()


@pytest.mark.slow
def test_two_processes_are_one_run_whatever_befalls_them(tmp_path: Path) -> None:
    """Killed, and frozen, it ends in the bits of one process on the same mesh."""
    long = ("--steps", "250")
    with Program(*command(tmp_path, *TWO, *long, "--restarts", "2")) as started:
        for lost, how in ((1, signal.SIGKILL), (0, signal.SIGSTOP)):
            wait_for_step(tmp_path, steps_noted(tmp_path) + 30, started)
            victim = workers(started)[lost]
            assert lose(tmp_path, started, victim, how) < 90, "also where others have both cores"
        output = started.output()
    assert started.returncode == 0, output
    assert "was killed by SIGKILL; starting again from the last good checkpoint, 2 of 2 restarts left" in output
    assert f"process 0 of 2 (pid {victim}) has stood still" in output
    assert "Traceback" not in output and "Gloo" not in output, "a loss is one sentence"

    end, other = record(tmp_path), uninterrupted(tmp_path / "one", *long)
    assert [end[name] for name in ENDS] == [other[name] for name in ENDS]
    assert end["environment"]["devices"]["processes"] == 2 and other["environment"]["devices"]["processes"] == 1


@pytest.mark.slow
def test_a_resumed_run_that_is_lost_after_its_end_is_the_one_that_goes_on(tmp_path: Path) -> None:
    """Killed once its record says "finished", before the report: no older unfinished run is taken in its place."""
    short = ("--steps", "60")
    for count in (1, 2):
        with Program(*command(tmp_path, *short)) as stopped:
            wait_until(lambda count=count: len(list(tmp_path.glob(f"runs/*/*/{CHAIN}"))) == count, stopped)
            stopped.send_signal(signal.SIGTERM)
            stopped.wait()
    older, resumed = sorted((tmp_path / "runs" / NAME).iterdir())
    with Program(*command(tmp_path, *short, "--resume", "--restarts", "1")) as run:
        wait_until(lambda: read_record(resumed)["status"] == FINISHED, run)
        os.kill(workers(run)[0], signal.SIGKILL)
        output = run.output()
    assert run.returncode == 0 and AGAIN in output, output
    assert read_record(older)["status"] == "interrupted"
    assert output.rstrip().endswith(f"report: {resumed / REPORT}") and (resumed / REPORT).exists()


def test_a_mistake_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    """What every process finds wrong is one line, with exit code 2."""
    none = str(tmp_path / "none.txt")
    with Program("experiments.gpt_austen", "--data.train", none, *TWO, "--restarts", "3") as program:
        output = program.output()
    assert program.returncode == 2
    assert output.count("error: ") == 1 and "none.txt matches no file" in output and "Traceback" not in output


@pytest.mark.slow
def test_ten_times_of_ten_training_goes_on_within_thirty_seconds(tmp_path: Path) -> None:
    """One of two processes is killed or frozen, ten times: training again within 30 s, to the same end."""
    long, dice, seconds = ("--steps", "1500"), random.Random(0), []
    with Program(*command(tmp_path, *TWO, *long, "--restarts", "10")) as run:
        for trial in range(10):
            wait_for_step(tmp_path, max(25, steps_noted(tmp_path)) + dice.randint(1, 40), run)
            how = (signal.SIGKILL, signal.SIGSTOP)[trial % 2]
            seconds.append(round(lose(tmp_path, run, dice.choice(workers(run)), how), 1))
        output = run.output()
    print("seconds until training again, killed and frozen in turn:", *seconds)
    assert run.returncode == 0, output[-2000:]
    other = uninterrupted(tmp_path / "one", *long)
    assert [record(tmp_path)[name] for name in ENDS] == [other[name] for name in ENDS]
    assert max(seconds) < 30, seconds


@pytest.mark.slow
def test_fifty_kills_at_random_moments_are_fifty_exact_resumes(tmp_path: Path) -> None:
    """On one process and on two, killed anywhere from the imports to the report: the end of an uninterrupted run."""
    phases = Counter[str]()
    for count, trials in ((1, 3), (2, 2)):
        other, starting = uninterrupted(tmp_path / f"uninterrupted{count}", *LONG, devices=count), math.inf
        for trial in range(trials):
            folder = tmp_path / f"{count}-{trial}"
            starting = killed_ten_times(folder, count, trial, starting, phases)
            end, run = record(folder), only_run(folder, NAME)
            same = (*ENDS, "metrics", "baselines")
            assert [end[name] for name in same] == [other[name] for name in same]
            for file in (CHAIN, METRICS):
                noted = [entry["step"] for entry in read_lines(run / file) if entry.get("kind", "train") == "train"]
                assert noted == list(range(1, STEPS + 1)), f"{file} has lost lines, or has some twice"
            assert (run / REPORT).exists()
    print("moments of the kills:", dict(phases))
    assert phases.total() == 50 and len(phases) == 6, "choose another seed"


def killed_ten_times(folder: Path, count: int, trial: int, starting: float, phases: Counter[str]) -> float:
    """Trains on so many processes, of which one is killed ten times: as it starts, as it trains, as it ends.

    Args:
        folder: where the run is.
        count: processes.
        trial: its number; in odd ones the end is that of a run already recorded as finished.
        starting: seconds from the start to the first step in the quickest life so far, infinite before the first one.
        phases: counts the kills by what the run was doing.

    Returns:
        `starting`, after this run.
    """
    dice, several = random.Random(f"trial {count}-{trial}"), () if count == 1 else TWO
    middle = ["start"] * 3 + ["training"] * 4
    dice.shuffle(middle)
    moments = ["start" if starting < math.inf else "training", *middle, ("end", FINISHED)[trial % 2], "start"]
    with Program(*command(folder, *several, *LONG, "--restarts", str(len(moments)))) as run:
        for kill, moment in enumerate(moments):
            wait_until(lambda kill=kill: run.so_far().count(AGAIN) == kill and len(workers(run)) == count, run)
            began, longest = time.monotonic(), 0.3
            if moment == "start":
                longest = starting
            elif moment == "training":
                wait_until(lambda: has_trained(run), run)
                starting, longest = min(starting, time.monotonic() - began), 0.1
                wait_for_step(folder, steps_noted(folder) + dice.randint(1, 30), run)
            elif moment == "end":
                wait_for_step(folder, STEPS, run)
            else:
                wait_until(lambda: record(folder)["status"] == FINISHED, run)
            time.sleep(dice.uniform(0, longest))
            doing = phase(folder, run)
            phases[doing] += 1
            victim = workers(run)[0] if doing == FINISHED else dice.choice(workers(run))  # the others leave before it
            os.kill(victim, signal.SIGKILL)
        output = run.output()
    assert run.returncode == 0, output[-2000:]
    assert output.count(AGAIN) == len(moments), output[-2000:]
    return starting


def wait_until(condition: Callable[[], bool], run: Program) -> None:
    """Waits until a condition holds, for two minutes at most, while the run goes on."""
    deadline = time.monotonic() + 120
    while not condition():
        assert run.poll() is None and time.monotonic() < deadline, run.so_far()[-2000:]
        time.sleep(0.005)


def has_trained(run: Program) -> bool:
    """Whether a run has done a step since it was last started."""
    return FIRST_STEP in run.so_far().rpartition(AGAIN)[2]


def phase(folder: Path, run: Program) -> str:
    """Returns what a run is doing."""
    if not list((folder / "runs").glob(f"*/*/{RECORD}")):
        return "starting, no record yet"
    if steps_noted(folder) == STEPS:
        return FINISHED if record(folder)["status"] == FINISHED else "ending"
    if not has_trained(run):
        return "starting"
    return "saving" if amid_a_save(only_run(folder, NAME)) else "training"


def amid_a_save(run: Path) -> bool:
    """Whether a checkpoint is being written, whose manifest comes last."""
    folder = run / "checkpoints"
    return any(path.is_dir() and not (folder / f"{path.name[:8]}.json").exists() for path in folder.iterdir())


@pytest.mark.slow
def test_on_a_cluster_each_machine_starts_its_own_process_again(tmp_path: Path) -> None:
    """Two commands that know only where to meet: each loss is named by both, and both go on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meeting = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--restarts", "2", "--steps", "3000"]
    with ExitStack() as stack:
        runs = [
            stack.enter_context(Program(*command(tmp_path, *meeting, "--process", str(index)))) for index in range(2)
        ]
        for lost in (1, 0):
            wait_for_step(tmp_path, max(25, steps_noted(tmp_path)) + 30, runs[0])
            lose(tmp_path, runs[0], workers(runs[lost])[0], signal.SIGKILL)
        outputs = [run.output() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert "process 1 of 2" in outputs[0] and "is lost: no sign of life for 10 s" in outputs[0]
    assert f"process 0 of 2 (127.0.0.1:{port}) does not answer; starting again" in outputs[1]
    other = uninterrupted(tmp_path / "one", "--steps", "3000")
    assert [record(tmp_path)[name] for name in ENDS] == [other[name] for name in ENDS]
