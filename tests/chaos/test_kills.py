"""Promises of a run that is stopped, politely or not: it continues to the very parameters of an uninterrupted run."""

import random
import signal
import time
from pathlib import Path

import pytest
from tiny_run import Program, only_run, options, record, run_module, steps_noted, wait_for_step

INTERVAL = 50  # steps between the checkpoints of the long test


def stop(folder: Path, command: list[str], step: int, sent: signal.Signals) -> tuple[int, str]:
    """Starts the command and sends the signal once the run has noted `step`; returns exit code and output."""
    with Program(*command) as started:
        wait_for_step(folder, step, started)
        started.send_signal(sent)
        output = started.output()
        return started.returncode, output


@pytest.mark.parametrize("polite", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopped_in_two_ways_a_run_ends_as_if_uninterrupted(
    tmp_path: Path, tiny_runs: Path, polite: signal.Signals
) -> None:
    """SIGTERM and Ctrl-C save the very step and exit with 0, kill -9 does not; resumed, the run ends in equal bits."""
    command = ["experiments.gpt_austen", *options(tiny_runs), "--runs", str(tmp_path / "runs")]
    code, output = stop(tmp_path, command, 7, polite)
    run, reached = only_run(tmp_path), steps_noted(tmp_path)
    assert code == 0 and f"Interrupted at step {reached}, saved" in output, output[-2000:]
    assert record(run)["status"] == "interrupted"
    assert (run / "checkpoints" / f"{reached:08d}.json").exists()
    command = [*command, "--resume"]
    assert stop(tmp_path, command, 28, signal.SIGKILL)[0] == -signal.SIGKILL
    assert record(run)["status"] == "running"
    assert record(run)["resumes"][-1]["step"] == reached, "a polite stop repeats no step"
    assert run_module(*command) == 0
    clean = record(only_run(tiny_runs / "clean"))
    assert record(run)["params_sha256"] == clean["params_sha256"]
    assert record(run)["chain"] == clean["chain"]


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """Ten kills, some amid a save: the same SHA-256, and never more repeated than one checkpoint interval."""
    dice = random.Random(0)
    longer = ["--steps", "1500", "--checkpoint-every", str(INTERVAL)]
    assert run_module("experiments.gpt_austen", *options(tmp_path / "clean"), *longer) == 0
    command = ["experiments.gpt_austen", *options(tmp_path), *longer]
    seen, resumes, cut_off, repeated = 0, [], [], []
    for kill in range(10):
        with Program(*command, *(["--resume"] if kill else [])) as started:
            if kill in (3, 6):  # while it starts, or reads the checkpoint
                time.sleep(dice.uniform(0, 6))
            else:
                wait_for_step(tmp_path, seen + dice.randint(1, 2 * INTERVAL), started)
                while kill in (2, 7) and not has_unfinished_save(only_run(tmp_path)):  # amid the next save
                    assert started.poll() is None, started.output()[-2000:]
                time.sleep(0 if kill in (2, 7) else dice.uniform(0, 0.1))
            started.kill()
        run, before = only_run(tmp_path), resumes
        resumes = [entry["step"] for entry in record(run)["resumes"]]
        if len(resumes) > len(before):
            repeated.append(seen - resumes[-1])
        seen = steps_noted(tmp_path)
        cut_off.append(has_unfinished_save(run))
    assert run_module(*command, "--resume") == 0
    assert record(run)["params_sha256"] == record(only_run(tmp_path / "clean"))["params_sha256"]
    print(f"steps repeated: {repeated}; kills that fell into a save: {cut_off}")
    assert any(cut_off), "no kill fell into a save"
    assert max(repeated) <= INTERVAL, repeated
    assert not has_unfinished_save(run), "remains of a save that was cut off are left"


def has_unfinished_save(run: Path) -> bool:
    """Whether a kill left a checkpoint without the list of its files, which is written last."""
    saves = [path for path in (run / "checkpoints").iterdir() if path.is_dir()]
    return any(not path.with_name(path.name + ".json").exists() for path in saves)
