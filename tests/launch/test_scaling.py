"""Promises of the measurement of meshes: a row for each that fits, ratios to one device, and nothing else printed."""

import re

import pytest
from tiny_run import Program, run_module


@pytest.mark.slow
def test_every_mesh_that_fits_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices: data, fsdp and tensor, exact where that can be, no context for an MLP; XLA warns of nothing."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")  # that of the tests
    with Program("research.launch.scaling", "article_softmax", *"--devices 2 --rounds 1 --steps 1".split()) as program:
        printed = program.output()
    assert program.returncode == 0, printed
    first, *_, last, _ = printed.split("\n")
    assert first.startswith("article_softmax on 2 x cpu, ")
    assert re.fullmatch(r"one device: \d+\.\d ms a step; times are ratios to it", last)
    rows = dict(re.findall(r"│ (\S.*\S) +│ +([\d.]+) +│", printed))
    assert list(rows) == ["one device", "data 2", "fsdp 2", "tensor 2", "one device, exact", "data 2, exact"]
    assert rows["one device"] == "1.00" and all(float(ratio) > 0 for ratio in rows.values())
    assert len(printed.splitlines()) == len(rows) + 6, f"a title, a table and a line, no warning:\n{printed}"


def test_what_is_no_experiment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name is answered with the names there are."""
    assert run_module("research.launch.scaling", "gpt_9000") == 2
    assert "There is no experiment 'gpt_9000': there are article_binary" in capsys.readouterr().err
