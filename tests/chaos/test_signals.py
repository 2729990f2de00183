"""Promises of SIGTERM and Ctrl-C wherever they find a run: the program ends soon, with 0, and nothing is lost."""

import gzip
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import NOVEL, Program, only_run, options, record, run_module, steps_noted, wait_for_step

from research.core.json_files import read_lines
from research.runs import checkpoints
from research.runs.directory import METRICS

SLOW_EVALUATION = ("--evaluators.0.limit", "None", "--evaluators.0.batch-size", "1")


@pytest.mark.parametrize(
    "several",
    [(), pytest.param(("--local-processes", "2"), marks=pytest.mark.slow)],
    ids=["one process", "two processes"],
)
def test_before_the_first_step_a_signal_ends_the_program_within_ten_seconds(tmp_path: Path, several) -> None:
    """Amid the first compilation it ends with 0 and one sentence, and leaves a run that can be resumed."""
    command = ["experiments.gpt_austen", *options(tmp_path), "--model.depth", "3", "--steps", "8", *several]
    with Program(*command, ONTOGENY_CACHE=str(tmp_path / "cache")) as started:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/*/*/run.json")):
            assert started.poll() is None and time.monotonic() < deadline, started.so_far()
            time.sleep(0.005)
        began = time.monotonic()
        started.send_signal(signal.SIGTERM)
        output = started.output()
        assert time.monotonic() - began < 10 and started.returncode == 0, output
    assert steps_noted(tmp_path) == 0, "the signal came too late for this test"
    assert record(only_run(tmp_path))["status"] == "interrupted"
    assert output.count("Interrupted with nothing to save") == 1 and "Traceback" not in output
    assert run_module(*command[:-2] if several else command, "--resume") == 0


@pytest.mark.slow
def test_a_signal_cuts_an_evaluation_short_which_the_resumed_run_makes_up_for(tmp_path: Path) -> None:
    """Stopped amid two evaluations, one of them the last, a run ends in 10 s; in the end it has done them all."""
    command = ["experiments.gpt_austen", *options(tmp_path), *SLOW_EVALUATION]
    novel = gzip.decompress(NOVEL.read_bytes()).decode()
    (tmp_path / "validation.txt").write_text(novel[30000:55000], encoding="utf-8")
    for step, resume in ((20, ()), (40, ("--resume",))):
        with Program(*command, *resume) as started:
            wait_for_step(tmp_path, step, started)
            began = time.monotonic()
            started.send_signal(signal.SIGTERM)
            assert "Interrupted at step" in started.output() and started.returncode == 0
            assert time.monotonic() - began < 10
        assert facts(tmp_path, step)["unevaluated"], "the signal did not come amid the evaluation"
    assert run_module(*command, "--resume") == 0
    clean = tmp_path / "clean"
    assert run_module(*command, "--runs", str(clean / "runs")) == 0
    assert evaluations(tmp_path) == evaluations(clean)
    assert record(only_run(tmp_path))["params_sha256"] == record(only_run(clean))["params_sha256"]
    assert facts(tmp_path, 40) | {"files": 0} == facts(clean, 40) | {"files": 0}
    assert checkpoints.best(only_run(tmp_path) / "checkpoints") == checkpoints.best(only_run(clean) / "checkpoints")


@pytest.mark.slow
def test_a_second_signal_ends_the_program_at_once(tmp_path: Path) -> None:
    """While the first is still being obeyed."""
    with Program("experiments.gpt_austen", *options(tmp_path), *SLOW_EVALUATION) as started:
        wait_for_step(tmp_path, 8, started)
        began = time.monotonic()
        for sent in (signal.SIGINT, signal.SIGTERM):
            started.send_signal(sent)
        assert started.wait(10) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert time.monotonic() - began < 1


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """Returns the evaluations that a run has logged."""
    return [entry for entry in read_lines(only_run(folder) / METRICS) if entry["kind"] == "evaluation"]


def facts(folder: Path, step: int) -> dict[str, Any]:
    """Returns what a checkpoint keeps beside the state."""
    manifest = only_run(folder) / "checkpoints" / f"{step:08d}.json"
    return json.loads(manifest.read_text(encoding="utf-8").splitlines()[0])
