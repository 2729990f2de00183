"""Promises of early stopping in a sweep: only a job worse than the median of enough others ends before its time."""

import signal
import statistics
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from research.launch import sweep_jobs
from research.launch.sweep_stopping import MedianRule, curve

LOSS, SCORE = ("validation", "loss", "min"), ("validation/hard", "f1", "max")
values = st.floats(-100, 100)


def evaluation(step: int, name: str = "validation", **metrics: float) -> dict[str, Any]:
    """A line of `metrics.jsonl`."""
    return {"step": step, "kind": "evaluation", "name": name, **metrics}


def test_a_curve_is_of_what_judges() -> None:
    """One metric of one evaluation, not of training: the lower, the better; NaN is worse than all numbers."""
    entries = [
        {"step": 5, "kind": "train", "loss": 7.0},
        evaluation(10, loss=2.0, f1=0.5),
        evaluation(10, "validation/hard", loss=3.0, f1=0.25),
        evaluation(20, loss=float("nan")),
        evaluation(20, "validation/hard", f1=float("nan")),
        evaluation(30),
    ]
    assert curve(entries, LOSS) == {10: 2.0, 20: float("inf")}
    assert curve(entries, SCORE) == {10: -0.25, 20: float("inf")}


@given(st.lists(values, max_size=9), values)
def test_worse_than_the_median_of_four_or_more(others: list[float], own: float) -> None:
    """Equal to the median is not worse; neither is anything beside three others."""
    step = MedianRule(LOSS, 100, [{10: value} for value in others]).first_bad_step({10: own})
    assert step == (10 if len(others) >= 4 and own > statistics.median(others) else None)


def test_values_are_compared_at_the_same_step() -> None:
    """Jobs without a value at a step do not count there, and the last step is too late to stop a job."""
    others = [{10: 1.0, 20: 1.0}, {10: 2.0, 20: 2.0}, {10: 3.0, 20: 3.0}, {10: 4.0}]
    rule = MedianRule(LOSS, 40, others)
    assert rule.first_bad_step({20: 9.0, 30: 9.0}) is None
    assert rule.first_bad_step({10: 2.0, 20: 9.0}) is None
    assert rule.first_bad_step({20: 9.0, 10: 3.0}) == 10
    assert MedianRule(LOSS, 10, others).first_bad_step({10: 9.0}) is None
    assert rule.first_bad_step({}) is None


def test_a_command_gets_one_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's, right after the rule's, is not passed on: a second kills a job before it has saved."""
    monkeypatch.setattr(sweep_jobs, "CHECK_SECONDS", 0.05)
    ready, got, received = tmp_path / "ready", tmp_path / "got", list[int]()
    (tmp_path / "job.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('TERM', file=open(sys.argv[2], 'a')))\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "time.sleep(1)\n"
    )

    def is_bad() -> bool:
        received.extend([signal.SIGTERM] * ready.exists())
        return ready.exists()

    command = [sys.executable, "-S", str(tmp_path / "job.py"), str(ready), str(got)]
    assert sweep_jobs.run_command(command, received, is_bad) == 0
    assert received == [signal.SIGTERM] and got.read_text() == "TERM\n"
