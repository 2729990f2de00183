"""Detects stalls: names a step that takes far longer than the median while it hangs, and where the program stands.

It only looks, from another thread, and never ends anything: a slow step may be a slow disk that recovers. The training
loop uses one `StallDetector` around all its steps, and records where it stood.
"""

import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from research.core.terminal import print_message

SLOW_FACTOR = 10  # times the median of the recent steps
MIN_SECONDS = 10.0  # below which no step is slow
RECENT = 100  # steps
POLL_SECONDS = 0.25  # between looks

PROJECT = Path(__file__).parents[2]


class StallDetector:
    """Watches the steps of a loop, inside a `with` block; the loop says when a step begins and when one is no step.

    `report(step, seconds, positions)` is called by the loop's own thread when a slow step has ended, with where the
    program's threads stood when it was found slow.
    """

    def __init__(self, report: Callable[[int, float, list[str]], None]):
        self._report = report
        self._durations: deque[float] = deque(maxlen=RECENT)
        self._current: tuple[int, float] | None = None  # replaced as a whole, so that both threads see a step or none
        self._slow: tuple[int, list[str]] | None = None
        self._watched = threading.get_ident()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="stall detector", daemon=True)

    def __enter__(self) -> "StallDetector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def begins(self, step: int) -> None:
        """Ends the step before, if it was being watched, and starts to watch this one."""
        self.ends()
        self._current = step, time.perf_counter()

    def ends(self) -> None:
        """Stops watching, for an evaluation, a save or a compilation."""
        if self._current is None:
            return
        (step, began), self._current = self._current, None
        seconds = time.perf_counter() - began
        self._durations.append(seconds)
        slow, self._slow = self._slow, None
        if slow and slow[0] == step:
            self._report(step, seconds, slow[1])

    def _look(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            current = self._current
            if current is None or (self._slow and current[0] == self._slow[0]) or len(self._durations) < 2:
                continue
            step, began = current
            seconds, median = time.perf_counter() - began, statistics.median(list(self._durations))
            if seconds > max(MIN_SECONDS, SLOW_FACTOR * median):
                self._slow = step, thread_positions(self._watched)
                print_message(f"step {step} has taken {seconds:.1f} s so far, where the median is {median:.2g} s")


def thread_positions(first: int) -> list[str]:
    """Returns where each thread that runs code of this project stands, thread `first` before the others.

    For example "MainThread at research/data/pipeline.py:98 (prefetch), from research/train/loop.py:77 (fit)".
    """
    names = {thread.ident: thread.name for thread in threading.enumerate() if thread is not threading.current_thread()}
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != first)
    found = [(names[thread], _own_frames(frame)) for thread, frame in frames if thread in names]
    return [f"{name} at {', from '.join(own[:2])}" for name, own in found if own]


def _own_frames(frame: FrameType | None) -> list[str]:
    """The frames of this project's packages, innermost first."""
    own = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PROJECT) and path.relative_to(PROJECT).parts[0] in ("research", "experiments"):
            own.append(f"{path.relative_to(PROJECT)}:{frame.f_lineno} ({frame.f_code.co_name})")
        frame = frame.f_back
    return own
