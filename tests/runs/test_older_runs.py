"""Runs recorded before this layout: they evaluate, write, report and export as they did; the same bits come out again.

`recorded/` holds two of them, as version 0.1.0 wrote them with jax 0.10.1: a GPT with a moving average on Jane Austen,
and a ResNet, whose running statistics were parameters then.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_run import Program, run_module

from experiments.mlp_adult import CONFIG
from research.core import trees
from research.core.configs import from_json, to_json
from research.core.json_files import read_lines
from research.runs.chain import first_difference
from research.runs.directory import CHAIN, read_record
from research.runs.resumable import changed_fields
from research.train.recorded_run import load_run
from research.train.run import train

RECORDED = Path(__file__).parent / "recorded"
NAMES = ("gpt_austen", "resnet_fashion")


@pytest.fixture(params=NAMES)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run directory of the older version, which a stage may add to."""
    (recorded,) = (RECORDED / request.param).iterdir()
    return Path(shutil.copytree(recorded, tmp_path / "runs" / request.param / recorded.name))


def test_it_evaluates_to_the_recorded_numbers(old: Path) -> None:
    """All metrics, from the parameters of the checkpoint, within the rounding of other machine code."""
    run = load_run(old)
    assert trees.digest(run.state.merged) == run.record["params_sha256"]
    task, data, mesh = run.assembly.task, run.assembly.data, run.assembly.mesh
    for evaluator in run.assembly.evaluators:
        found = evaluator.build(task, data, mesh, run.assembly.experiment.seed).measure(run.state.evaluated)
        recorded = run.record["metrics"][evaluator.split]
        assert found["loss"] == pytest.approx(recorded["loss"], rel=1e-5)
        assert found["accuracy"] == recorded["accuracy"]


@pytest.mark.parametrize("old", ["gpt_austen", pytest.param("resnet_fashion", marks=pytest.mark.slow)], indirect=True)
def test_it_trains_again_on_the_same_batches_and_keys(old: Path, tmp_path: Path) -> None:
    """The recorded configuration draws the same rows and random numbers; losses agree but for rounding."""
    record = read_record(old)
    again = train(from_json(record["config"]), name=record["name"], root=tmp_path / "again")
    before, after = (list(read_lines(folder / CHAIN)) for folder in (old, again.folder))
    assert [(entry["batch"], entry["random"]) for entry in after] == [(e["batch"], e["random"]) for e in before]
    losses = [[e["loss"] for e in read_lines(f / "metrics.jsonl") if e["kind"] == "train"] for f in (old, again.folder)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_reproduced_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Where jaxlib, processor and thread pool are those of the record: the same chain and SHA-256."""
    (old,) = (RECORDED / name).iterdir()
    threads = str(read_record(old)["environment"]["thread_pool"])
    with Program("research.reproduce", str(old), "--runs", str(tmp_path), XLA_FLAGS="", NPROC=threads) as program:
        assert program.output().split("\n")[-2].startswith("identical: ")
    (again,) = (tmp_path / name).iterdir()
    assert first_difference(list(read_lines(old / CHAIN)), list(read_lines(again / CHAIN))) is None


def test_it_is_reported(old: Path) -> None:
    """The page and the model card are written from the record alone."""
    assert run_module("research.report", str(old)) == 0
    assert (old / "report.html").stat().st_size > 10_000
    sha = read_record(old)["params_sha256"]
    assert sha in (old / "report.html").read_text(encoding="utf-8")


def test_a_language_model_of_it_writes_and_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its own tokenizer, from its moving average."""
    (old,) = (RECORDED / "gpt_austen").iterdir()
    assert run_module("research.generate", str(old), "Emma", "--tokens", "5") == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_not_resumed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence says that its checkpoints have another form; nothing is lost."""
    (recorded,) = (RECORDED / name).iterdir()
    old = Path(shutil.copytree(recorded, tmp_path / "runs" / name / recorded.name))
    record = json.loads((old / "run.json").read_text(encoding="utf-8"))
    (old / "run.json").write_text(json.dumps({**record, "status": "interrupted"}), encoding="utf-8")
    options = record["command"].split()[3:]
    assert run_module(f"experiments.{name}", *renamed(options), "--runs", str(tmp_path / "runs"), "--resume") == 2
    assert "was written by an older version" in capsys.readouterr().err
    assert json.loads((old / "run.json").read_text(encoding="utf-8"))["status"] == "interrupted"


def renamed(options: list[str]) -> list[str]:
    """The options of the recorded command in today's names."""
    return [option.replace("--optimizer.peak", "--optimizer.learning-rate") for option in options]


def test_a_field_that_came_later_has_its_default() -> None:
    """An unfinished run whose record does not have it is resumed; what does differ is still named."""
    config = to_json(CONFIG)
    del config["patience"], config["optimizer"]["clip"]
    assert changed_fields({"config": config}, CONFIG) == {}
    impatient = dataclasses.replace(CONFIG, patience=5)
    assert changed_fields({"config": config}, impatient) == {"patience": (0, 5)}
