"""Training from a notebook: the report is there, and never in the way."""

from pathlib import Path

import pytest

import research
from research.launch import notebook
from research.train.experiment import Experiment


def test_a_run_leaves_its_report(
    tiny_image_run: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from the command line; where it cannot be written, a message says so and the run is returned all the same."""
    assert research.train is notebook.train and "stop_after" in (research.train.__doc__ or "")
    run = research.train(tiny_image_run, name="tiny", root=tmp_path / "runs", stop_after=4)
    assert "interrupted" in (run.folder / "report.html").read_text(encoding="utf-8")

    def fail(folder: Path) -> Path:
        raise KeyError("odd")

    monkeypatch.setattr(notebook, "write_report", fail)
    again = research.train(tiny_image_run, name="tiny", root=tmp_path / "runs", resume=True)
    assert again.record["status"] == "finished"
    assert "could not be written (KeyError: 'odd')" in capsys.readouterr().err
