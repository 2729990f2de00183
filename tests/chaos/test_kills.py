"""Promises of a run that is stopped, politely or not: it continues to the very parameters of an undisturbed run."""

import random
import signal
import time
from pathlib import Path

import pytest
from tiny_run import only_run, options, process, record, run_module, steps_noted, wait_for_step

INTERVAL = 5  # steps between checkpoints


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The record of the undisturbed run."""
    folder = tmp_path_factory.mktemp("clean")
    assert run_module("experiments.gpt_austen", *options(folder)) == 0
    return record(only_run(folder))


def stop(folder: Path, command: list[str], step: int, sent: signal.Signals, delay: float = 0) -> tuple[int, str]:
    """Starts the command, sends the signal once the run has noted `step`; returns exit code and output."""
    with process(*command) as started:
        wait_for_step(folder, step, started)
        time.sleep(delay)
        started.send_signal(sent)
        output, _ = started.communicate(timeout=60)
        return started.returncode, output


def repeated_steps(folder: Path, seen: int, resumes: int) -> int:
    """Returns how many of the steps seen before a kill the newest resumption ran again."""
    entries = record(only_run(folder))["resumes"]
    return seen - (entries[-1]["step"] if len(entries) > resumes else 0)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_and_exits_with_0(tmp_path: Path, clean: dict, sent: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end the run with code 0 and a checkpoint of the very step, and --resume repeats nothing."""
    command = ["experiments.gpt_austen", *options(tmp_path)]
    code, output = stop(tmp_path, command, 12, sent)
    run = only_run(tmp_path)
    reached = steps_noted(tmp_path)
    assert code == 0 and f"Interrupted at step {reached}, saved" in output, output[-2000:]
    assert record(run)["status"] == "interrupted"
    assert (run / "checkpoints" / f"{reached:08d}.json").exists()
    assert run_module(*command, "--resume") == 0
    assert [entry["step"] for entry in record(run)["resumes"]] == [reached]
    assert record(run)["params_sha256"] == clean["params_sha256"]
    assert record(run)["chain"] == clean["chain"]


def test_two_kills_change_nothing(tmp_path: Path, clean: dict) -> None:
    """Killed before its first checkpoint and in the middle, a run ends in the clean run's parameters and chain."""
    command = ["experiments.gpt_austen", *options(tmp_path)]
    assert stop(tmp_path, command, 2, signal.SIGKILL)[0] == -signal.SIGKILL
    assert stop(tmp_path, [*command, "--resume"], 23, signal.SIGKILL)[0] == -signal.SIGKILL
    assert record(only_run(tmp_path))["status"] == "running"
    assert run_module(*command, "--resume") == 0
    assert record(only_run(tmp_path))["params_sha256"] == clean["params_sha256"]
    assert record(only_run(tmp_path))["chain"] == clean["chain"]


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """Ten kills, some amid a save: same SHA-256; at most an interval is repeated, or two where a save was cut off."""
    dice = random.Random(0)
    longer = ["--steps", "200"]
    assert run_module("experiments.gpt_austen", *options(tmp_path / "clean"), *longer) == 0
    command = ["experiments.gpt_austen", *options(tmp_path), *longer]
    amid_save, resumes, seen = 0, 0, 0
    for kill in range(10):
        target = max(1, seen + dice.randrange(-INTERVAL, 3 * INTERVAL))
        with process(*command, *(["--resume"] if kill else [])) as started:
            if kill:
                started_at = only_run(tmp_path)
                while len(record(started_at)["resumes"]) <= resumes and seen >= INTERVAL:
                    assert started.poll() is None
                    time.sleep(0.005)
            wait_for_step(tmp_path, target, started)
            time.sleep(dice.uniform(0, 0.1))
            started.kill()
            started.wait()
        seen = steps_noted(tmp_path)
        print(f"kill {kill + 1}: at step {seen}")
    assert amid_save
    assert run_module(*command, "--resume") == 0
    sha = record(only_run(tmp_path / "clean"))["params_sha256"]
    assert record(only_run(tmp_path))["params_sha256"] == sha
