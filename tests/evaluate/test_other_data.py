"""Promises of `research.evaluate RUN --data...`: other data are encoded as the run's own, or refused."""

import json
from pathlib import Path

import pytest
from tiny_run import only_run, record, run_module


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table of 300 rows, whose column `size` decides."""
    folder = tmp_path_factory.mktemp("table")
    write_table(folder / "train.csv", range(300))
    few = ["--steps", "40", "--schedule.warmup", "1", "--batch-size", "16", "--runs", str(folder / "runs")]
    train = ["--data.train", str(folder / "train.csv"), "--data.target", "sold"]
    assert run_module("experiments.mlp_adult", *train, *few) == 0
    return only_run(folder, "mlp_adult")


def write_table(path: Path, sizes: range, columns: str = "size,kind,sold") -> None:
    """Writes rows that are sold where their size is odd times a hundred."""
    rows = [f"{size},{'abc'[size % 3]},{'yes' if size > 150 else 'no'}" for size in sizes]
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")


def evaluate(run: Path, *options: str) -> int:
    return run_module("research.evaluate", str(run), *options)


def test_a_table_of_ones_own_is_encoded_by_the_runs_training_rows(
    table_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of which all are large are all 'yes'; standardised among themselves they would not be."""
    write_table(tmp_path / "new.csv", range(200, 260))
    before = {path: path.read_bytes() for path in table_run.rglob("*") if path.is_file()}
    assert evaluate(table_run, "--data.test", str(tmp_path / "new.csv"), "--split", "test") == 0
    printed = capsys.readouterr().out
    assert "test split" in printed and "equal to what training" not in printed
    (written,) = set((table_run / "evaluate").iterdir()) - before.keys()
    results = json.loads(written.read_text(encoding="utf-8"))
    assert results["metrics"]["test"]["accuracy"] > 0.9
    assert str(tmp_path / "new.csv") in results["data"]["files"]
    assert {path: path.read_bytes() for path in before} == before


def test_what_the_run_cannot_read_as_its_own_is_refused(
    table_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other training rows make other features; the run's own data, by whatever name, are no other data."""
    write_table(tmp_path / "new.csv", range(100, 300))
    data = record(table_run)["config"]["data"]
    for options, said in (
        (["--data.train", str(tmp_path / "new.csv")], "do not fit"),
        (["--data.train", data["train"]], "are those of the run"),
        (["--data.tset", "x.csv"], "--data.test"),
    ):
        assert evaluate(table_run, *options) == 2
        shown = capsys.readouterr()
        assert said in shown.err + shown.out


def test_another_text_is_read_with_the_runs_own_tokenizer(
    tiny_runs: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text of eight letters has a small vocabulary of its own, and the run's where the run reads it."""
    run = only_run(tiny_runs / "clean")
    other = ["--data.train", str(tiny_text), "--data.validation", "--data.validation-fraction", "0.3"]
    assert evaluate(run, *other, "--split", "train") == 0
    assert "train split" in capsys.readouterr().out


def test_a_run_that_ended_early_is_compared_with_what_it_printed(
    table_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Out of patience a run ends before the last step of its configuration."""
    path = table_run / "run.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace('"steps": 40', '"steps": 50'), encoding="utf-8")
    try:
        assert evaluate(table_run) == 0
    finally:
        path.write_text(before, encoding="utf-8")
    assert "equal to what training printed" in capsys.readouterr().out
