"""The stall detector: a slow step is named while it hangs, with the position; others, and pauses, are not."""

import re
import threading
import time

import pytest

from research.data.pipeline import prefetch
from research.train import stall_detector
from research.train.stall_detector import StallDetector, thread_positions


@pytest.fixture
def quick(monkeypatch):
    """A stall detector that looks more often and calls a fifth of a second slow, so that the tests are fast."""
    monkeypatch.setattr(stall_detector, "MIN_SECONDS", 0.2)
    monkeypatch.setattr(stall_detector, "POLL_SECONDS", 0.02)


def quick_steps(watched, count=5):
    for step in range(count):
        watched.begins(step)
        time.sleep(0.005)


def test_a_slow_step_is_named_while_it_hangs_and_noted_once_it_ends(quick, capfd):
    """The line says the step and the median; once it ends, it is reported with the duration and where threads stood."""
    reports = []
    never = threading.Event()
    batches = prefetch(lambda _: never.wait(0.6), 0, 2, ahead=1)
    with StallDetector(lambda *report: reports.append(report)) as watched:
        quick_steps(watched)
        watched.begins(120)
        next(batches)
        said = capfd.readouterr().err
        assert reports == []
        watched.begins(121)
    batches.close()
    assert said.count("step 120 has taken 0.") == 1
    assert re.search(r"where the median is 0\.0\d* s$", said, re.MULTILINE)
    ((step, seconds, positions),) = reports
    assert re.match(r"MainThread at research/data/pipeline\.py:\d+ \(prefetch\)", positions[0])
    assert step == 120 and 0.5 < seconds < 2


def test_quick_steps_and_pauses_are_not_named(quick, capfd):
    """An evaluation between steps may last as long as it likes; a first step has nothing to be compared with."""
    reports = []
    with StallDetector(lambda *report: reports.append(report)) as watched:
        watched.begins(0)
        time.sleep(0.3)
        watched.ends()
        quick_steps(watched)
        watched.ends()
        time.sleep(0.3)
        quick_steps(watched)
    assert reports == [] and capfd.readouterr().err == ""


def test_steps_that_are_all_slow_are_not_named(quick, capfd):
    """Ten times the median, not a fixed time, is slow."""
    with StallDetector(lambda *_: None) as watched:
        for step in range(4):
            watched.begins(step)
            time.sleep(0.25)
    assert capfd.readouterr().err == ""


def test_positions_are_those_in_the_project_and_the_watched_thread_comes_first():
    """Each thread that stands in this project is named with its innermost positions; the others are left out."""
    batches = prefetch(lambda _: time.sleep(0.5), 0, 1, ahead=1)
    found = []
    looking = threading.Thread(
        target=lambda: (time.sleep(0.1), found.extend(thread_positions(threading.main_thread().ident)))
    )
    looking.start()
    next(batches)
    looking.join()
    assert found[0].startswith("MainThread at research/data/pipeline.py:")
    assert any(place.startswith("prefetch at research/data/pipeline.py:") for place in found)
