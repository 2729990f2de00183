"""The watchdog: a slow step is named while it hangs, with the place; usual ones, and pauses, are not."""

import threading
import time

import pytest

from research.data.pipeline import prefetch
from research.train.stall_detector import Watchdog, places


@pytest.fixture
def quick(monkeypatch):
    """A watchdog that looks more often and calls a fifth of a second slow, so that the tests are fast."""
    monkeypatch.setattr(watchdog, "LEAST", 0.2)
    monkeypatch.setattr(watchdog, "LOOK", 0.02)


def usual_steps(watched, count=5):
    for step in range(count):
        watched.begins(step)
        time.sleep(0.005)


def test_a_slow_step_is_named_while_it_hangs_and_noted_once_it_ends(quick, capfd):
    """The line says the step, the usual time and where the program waits; the loop is told once, with the duration."""
    reports = []
    never = threading.Event()
    batches = prefetch(lambda _: never.wait(0.6), 0, 2, ahead=1)
    with Watchdog(lambda *report: reports.append(report)) as watched:
        usual_steps(watched)
        watched.begins(120)
        next(batches)
        said = capfd.readouterr().err
        assert reports == []
        watched.begins(121)
    batches.close()
    assert said.count("step 120 has taken 0.") == 1
    assert "are usual: MainThread at research/data/pipeline.py:" in said and "(prefetch)" in said
    ((step, seconds),) = reports
    assert step == 120 and 0.5 < seconds < 2


def test_usual_steps_and_pauses_are_not_named(quick, capfd):
    """An evaluation between steps may last as long as it likes; a first step has nothing to be compared with."""
    reports = []
    with Watchdog(lambda *report: reports.append(report)) as watched:
        watched.begins(0)
        time.sleep(0.3)
        watched.ends()
        usual_steps(watched)
        watched.ends()
        time.sleep(0.3)
        usual_steps(watched)
    assert reports == [] and capfd.readouterr().err == ""


def test_steps_that_are_all_slow_are_usual(quick, capfd):
    """Ten times the median, not a fixed time, is slow."""
    with Watchdog(lambda *_: None) as watched:
        for step in range(4):
            watched.begins(step)
            time.sleep(0.25)
    assert capfd.readouterr().err == ""


def test_places_are_those_of_the_project_and_the_watched_thread_comes_first():
    """Each thread that stands in this project is named with its innermost places; the others are left out."""
    batches = prefetch(lambda _: time.sleep(0.5), 0, 1, ahead=1)
    found = []
    looking = threading.Thread(target=lambda: (time.sleep(0.1), found.extend(places(threading.main_thread().ident))))
    looking.start()
    next(batches)
    looking.join()
    assert found[0].startswith("MainThread at research/data/pipeline.py:")
    assert any(place.startswith("prefetch at research/data/pipeline.py:") for place in found)
