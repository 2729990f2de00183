"""Promises of `python -m research.reproduce RUN`: identical where nothing changed, else the first step that differs."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import Program, only_run, record, run_module

from research.runtime import backend
from research.train.experiment import Experiment
from research.train.run import train


@pytest.fixture
def run(tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy of a finished tiny run that a test may change."""
    shutil.copytree(tiny_runs / "clean/runs", tmp_path / "copy" / "runs")
    return only_run(tmp_path / "copy")


def reproduce(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Reproduces a run beside it; returns exit code and output."""
    code = run_module("research.reproduce", str(run), "--runs", str(run.parents[2] / "again"))
    return code, capsys.readouterr().out


def change_line(path: Path, number: int, **changes: Any) -> None:
    """Changes values in one JSON line of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number] = json.dumps({**json.loads(lines[number]), **changes})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_another_process_reproduces_a_run_to_the_bit(tiny_runs: Path, tmp_path: Path) -> None:
    """Run again in a process of its own, a run has an equal chain and equal parameters, and is left as it was."""
    run = only_run(tiny_runs / "clean")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with Program("research.reproduce", str(run), "--runs", str(tmp_path / "runs")) as started:
        output = started.output()
    assert started.returncode == 0, output[-2000:]
    assert f"identical: {record(run)['params_sha256']}" in output
    again = only_run(tmp_path)
    assert (again / "chain.jsonl").read_bytes() == (run / "chain.jsonl").read_bytes()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_whose_end_was_moved_is_reproduced_in_its_parts(
    tiny_line_run: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Moved twice, once before the end and once after it; as one run towards the last end it would have other bits."""
    run_id = "20260101-000000-000-abcd"
    for steps, stop in ((8, 5), (10, None), (12, None)):
        experiment = dataclasses.replace(tiny_line_run, steps=steps)
        extended = train(experiment, name="tiny", root=tmp_path / "runs", run_id=run_id, stop_after=stop)
    assert [(part["step"], part["steps"]) for part in extended.record["extensions"]] == [(5, 8), (10, 10)]
    code, output = reproduce(extended.folder, capsys)
    assert code == 0 and f"identical: {extended.record['params_sha256']}" in output
    assert train(experiment, name="tiny", root=tmp_path / "other").record["params_sha256"] not in output


def test_the_first_step_that_differs_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a chain differs from step 20 on, that step is named, the part that differs, and the environment."""
    change_line(run / "chain.jsonl", 19, chain="0" * 64, result="0" * 16)
    changed = record(run)
    changed["environment"]["packages"]["jax"] = "0.0.1"
    (run / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    code, output = reproduce(run, capsys)
    assert code == 1
    assert "different from step 20 on, first in: result (" in " ".join(output.split())
    assert f"environment.packages.jax: 0.0.1 then, {backend.describe()['packages']['jax']} now" in output


def test_other_parameters_at_the_end_are_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An equal chain with other final parameters is not called identical."""
    changed = record(run) | {"params_sha256": "0" * 64}
    (run / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    code, output = reproduce(run, capsys)
    assert code == 1 and "different from step 40 on, first in: params" in output and "identical" not in output


def test_equal_parameters_with_other_results_are_not_identical(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed row that no step read leaves the parameters as they were: what else differs is named."""
    changed = record(run)
    (split,) = changed["metrics"]
    changed["metrics"][split]["loss"] += 1
    changed["data"]["files"] = dict.fromkeys(changed["data"]["files"], "0" * 64)
    (run / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    code, output = reproduce(run, capsys)
    assert code == 1 and "equal parameters, but other data or results" in output and "identical" not in output
    assert f"metrics.{split}.loss: {changed['metrics'][split]['loss']} then" in output
    assert f"data.files.{next(iter(changed['data']['files']))}: {'0' * 64} then" in " ".join(output.split())


def test_an_unfinished_run_is_not_reproduced(tiny_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was interrupted is refused, and --resume recommended."""
    assert run_module("research.reproduce", str(only_run(tiny_runs))) == 2
    assert "is interrupted, not finished: finish it with --resume" in capsys.readouterr().err


def test_the_recorded_thread_pool_is_used(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of another thread-pool size is reproduced in a program with that size, on which the bits depend."""
    changed = record(run)
    changed["environment"]["thread_pool"] = 3
    (run / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    started: list[Any] = []

    def execve(*arguments: Any) -> None:
        started.extend(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    assert run_module("research.reproduce", str(run)) == 0
    program, arguments, environment = started
    assert (program, arguments[1:]) == (sys.executable, ["-m", "research.reproduce", str(run)])
    assert environment["NPROC"] == "3"
