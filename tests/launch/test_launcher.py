"""Promises of an experiment's command line: every field is an option, and a run leaves all it says it leaves."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_run import only_run, record, run_module

from experiments import gpt_austen, mlp_adult
from research.core import command_line
from research.core.configs import from_json
from research.core.errors import UserError
from research.data.text.text_data import TextData
from research.launch import launcher
from research.runs.directory import all_runs
from research.runs.resumable import find_resumable
from research.train.experiment import Experiment
from research.train.run import train


@pytest.fixture
def finished(tiny_runs: Path) -> Path:
    """The directory of a finished tiny run."""
    return only_run(tiny_runs / "clean")


def test_help_shows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    """--help gives the module's own words, and the fields of every part with their defaults."""
    assert run_module("experiments.gpt_austen", "--help") == 0
    shown = capsys.readouterr().out
    assert "learns to write like Jane Austen" in shown
    for option in (
        "--steps",
        "--model.depth",
        "--optimizer.learning-rate",
        "--schedule.warmup",
        "--mesh.fsdp",
        "--data.length",
    ):
        assert option in shown
    assert f"default: {gpt_austen.CONFIG.steps}" in shown


def test_options_reach_the_record(finished: Path, tiny_runs: Path) -> None:
    """What was given on the command line is what the record says was run, with the command itself."""
    written = record(finished)
    config = written["config"]
    assert (config["steps"], config["accumulate"], config["model"]["width"], config["model"]["dropout"]) == (
        40,
        2,
        32,
        0.1,
    )
    assert config["data"]["train"] == [str(tiny_runs / "train.txt")]
    assert config["optimizer"]["b2"] == 0.99, "what was not given stays as in the experiment"
    assert written["command"].startswith("python -m experiments.gpt_austen --data.train ")


def test_a_run_leaves_its_directory(finished: Path) -> None:
    """Record, curves, chain, checkpoints, tokenizer, report and card; the record is complete."""
    for name in ("metrics.jsonl", "chain.jsonl", "tokenizer.json", "report.html", "MODEL_CARD.md"):
        assert (finished / name).stat().st_size
    written = record(finished)
    assert written["status"] == "finished" and written["name"] == "gpt_austen" and written["id"] == finished.name
    assert {"data", "assembly", "first_step", "train", "baselines"} <= written["stages"].keys()
    assert len(written["params_sha256"]) == 64
    assert {"1-gram", "2-gram", "3-gram"} <= written["baselines"]["validation"].keys()
    chain = [json.loads(line) for line in (finished / "chain.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["step"] for entry in chain] == list(range(1, 41)) and chain[-1]["chain"] == written["chain"]
    assert [entry["step"] for entry in chain if "params" in entry] == [10, 20, 30, 40]
    entries = [json.loads(line) for line in (finished / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["step"] for entry in entries if entry["kind"] == "evaluation"] == [20, 40]
    last = {"step": 40, "kind": "evaluation", "name": "validation", **written["metrics"]["validation"]}
    assert last in entries
    assert sorted(path.name for path in (finished / "checkpoints").iterdir() if path.is_dir())[-2:] == [
        "00000035",
        "00000040",
    ]


def test_evaluation_alone_gives_what_training_printed(
    finished: Path, tiny_runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m research.evaluate latest` finds the run, repeats its numbers, and changes no file of it."""
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    monkeypatch.chdir(tiny_runs / "clean")
    assert run_module("research.evaluate", "latest") == 0
    assert "equal to what training printed" in capsys.readouterr().out
    assert json.loads((finished / "evaluate/00000040.json").read_text(encoding="utf-8")) == {
        "step": 40,
        "metrics": record(finished)["metrics"],
    }
    assert {path: path.read_bytes() for path in before} == before


def test_the_best_checkpoint_and_other_splits_are_evaluated(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--best takes the checkpoint with the best validation result, --split another split than the configuration's."""
    assert run_module("research.evaluate", str(finished), "--best", "--split", "train") == 0
    assert "train split" in capsys.readouterr().out
    assert run_module("research.evaluate", str(finished), "--split", "test") == 2
    assert "no split 'test'" in capsys.readouterr().err


def test_runs_of_one_name_lie_side_by_side(finished: Path, tmp_path: Path) -> None:
    """Every start has a directory of its own, the newest last, and the same first steps."""
    config = from_json(record(finished)["config"])
    started = [train(config, name="gpt_austen", root=tmp_path, stop_after=2).folder for _ in range(2)]
    assert all_runs(tmp_path) == started
    chains = [(run / "chain.jsonl").read_text(encoding="utf-8").splitlines() for run in (*started, finished)]
    assert chains[0] == chains[1] == chains[2][:2]


@pytest.mark.parametrize(
    ("arguments", "warmup"),
    [
        (["--steps", "100"], 10),
        (["--steps", "5"], 0),
        (["--steps", "101"], 100),
        (["--steps", "100", "--schedule.warmup", "100"], 100),
        (["--steps", "100", "--schedule.warmup=99"], 99),
    ],
)
def test_a_default_warm_up_gives_way_to_few_steps(arguments: list[str], warmup: int) -> None:
    """The experiment's own leaves nothing of 100 steps and becomes a tenth; one that is given stays, to be refused."""
    assert gpt_austen.CONFIG.schedule.warmup == 100
    assert launcher.parse(gpt_austen.CONFIG, args=arguments).experiment.schedule.warmup == warmup


@pytest.mark.parametrize(
    ("arguments", "ignored"),
    [
        ([], ("fnlwgt", "education")),
        (["--data.train", "own.csv"], ()),
        (["--data.train", "own.csv", "--data.ignore", "id"], ("id",)),
        (["--data.test", "own.csv"], ("fnlwgt", "education")),
    ],
)
def test_columns_named_for_a_data_set_are_not_looked_for_in_ones_own(
    arguments: list[str], ignored: tuple[str, ...]
) -> None:
    """A table of one's own may have a column of the same name, which is as good as any other."""
    data = launcher.parse(mlp_adult.CONFIG, args=arguments).experiment.data
    assert data.ignore == ignored
    assert data.logarithm == (() if "--data.train" in arguments else ("capital_gain", "capital_loss"))


def test_a_newer_run_that_has_not_finished_is_meant_by_resume(tmp_path: Path, tiny_line_run: Experiment) -> None:
    """With fewer steps than recorded it is refused; no finished run of another configuration goes on in its place."""
    finished = dataclasses.replace(tiny_line_run, seed=1, steps=3)
    train(finished, name="tiny", root=tmp_path)
    train(tiny_line_run, name="tiny", root=tmp_path, stop_after=1)

    def wanted(folder: Path, recorded: Mapping[str, Any]) -> Experiment:
        return dataclasses.replace(from_json(recorded["config"]), steps=4)

    assert tiny_line_run.steps > 4
    with pytest.raises(UserError, match=f"steps was {tiny_line_run.steps} and is now 4"):
        find_resumable("tiny", tmp_path, wanted)


def test_resume_needs_no_options(
    tiny_runs: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone or with a run's directory it takes the recorded configuration; more --steps let a finished run go on."""
    runs = shutil.copytree(tiny_runs / "runs", tmp_path / "runs")
    run = only_run(tmp_path)
    assert run_module("experiments.gpt_austen", "--resume", "--runs", str(runs), "--log-every", "20") == 0
    assert f"resuming {run} at step 13" in capsys.readouterr().err
    assert record(run)["params_sha256"] == record(finished)["params_sha256"]
    assert run_module("experiments.gpt_austen", "--steps", "42", "--resume", str(run)) == 0
    assert f"resuming {run} at step 40" in capsys.readouterr().err
    assert record(run)["config"]["steps"] == 42 and record(run)["extensions"][0]["steps"] == 40
    assert len((run / "chain.jsonl").read_text(encoding="utf-8").splitlines()) == 42


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("experiments.gpt_austen", "--steps", "39"), "steps was 40 and is now 39"),
        (("experiments.gpt_austen", "--model.width", "64"), "model.width was 32 and is now 64"),
        (("experiments.article_regression",), "python -m experiments.gpt_austen --resume"),
    ],
)
def test_what_a_run_cannot_go_on_as_is_refused(
    tiny_runs: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...], said: str
) -> None:
    """Fewer steps, another model, another experiment: the run stays as it is."""
    run = only_run(tiny_runs)
    before = (run / "run.json").read_bytes()
    assert run_module(*wrong, "--resume", str(run)) == 2
    assert said in capsys.readouterr().err and (run / "run.json").read_bytes() == before


def test_options_are_refused_before_the_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges, sizes, schedule, batch and mesh: nothing of it needs the text, which takes long to prepare."""

    def read(data: TextData) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(TextData, "build", read)
    for wrong in (
        "--model.depth 1000000000",
        "--model.width 33",
        "--schedule.warmup 3000",
        "--batch-size 5 --accumulate 2",
        "--mesh.fsdp 3",
        "--keep-last 0",
    ):
        assert run_module("experiments.gpt_austen", *wrong.split(), "--runs", str(tmp_path / "runs")) == 2, wrong
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_before_the_first_step_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupted while it still prepares, a program ends with 130, as a shell expects, and without a stack trace."""

    def prepare() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        command_line.run(prepare)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_your_own_table_and_pictures_train_by_the_readmes_commands(tiny_images: Path, tmp_path: Path) -> None:
    """The experiments evaluate a test split that your own data lack: the validation split is enough."""
    rows = [f"{number},{'abc'[number % 3]},{'yes' if number % 3 else 'no'}" for number in range(300)]
    (tmp_path / "mine.csv").write_text("\n".join(["size,kind,sold", *rows]) + "\n", encoding="utf-8")
    few = ["--steps", "2", "--schedule.warmup", "1", "--batch-size", "4", "--runs", str(tmp_path / "runs")]
    table = ["--data.train", str(tmp_path / "mine.csv"), "--data.target", "sold"]
    assert run_module("experiments.mlp_adult", *table, *few) == 0
    pictures = ["--data.folder", str(tiny_images), "--data.size", "8", "--data.validation-fraction", "0.25"]
    assert run_module("experiments.resnet_fashion", *pictures, *few) == 0
    for run in all_runs(tmp_path / "runs"):
        assert set(record(run)["metrics"]) == {"validation"}
        assert (run / "report.html").exists()


def test_resuming_on_changed_data_is_refused(
    tiny_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that went on with an edited file would be no run of either."""
    text = tmp_path / "mine.txt"
    text.write_text(tiny_text.read_text(encoding="utf-8"), encoding="utf-8")
    command = ["--data.train", str(text), "--data.length", "8", "--model.context", "8", "--model.width", "8"]
    command += ["--model.heads", "2", "--data.validation-fraction", "0.3", "--runs", str(tmp_path / "runs")]
    command += ["--steps", "4", "--schedule.warmup", "1", "--evaluators.0.limit", "8", "--sample-every", "0"]
    assert run_module("experiments.gpt_austen", *command) == 0
    run = only_run(tmp_path)
    (run / "run.json").write_text((run / "run.json").read_text(encoding="utf-8").replace('"finished"', '"running"', 1))
    text.write_text(text.read_text(encoding="utf-8") + "more words\n", encoding="utf-8")
    assert run_module("experiments.gpt_austen", *command, "--resume") == 2
    assert "The data of" in capsys.readouterr().err
