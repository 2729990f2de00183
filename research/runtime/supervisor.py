"""A parent that starts the processes of a run, sees when one dies or stands still, and starts them all again.

`supervise` runs the very command of the user once for each place; in a process started so `assignment` tells its place,
and gives signs of life. A process of a run on several is never without: losing the first of them, the runtime ends the
others without a word, and this parent says it for them.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from research.runtime.processes import LOST, STOPPED, USER_ERROR, Place
from research.runtime.processes import SILENCE as SILENCE_OF_PEERS

VARIABLE = "ONTOGENY_WORKER"
BEAT = 0.5  # seconds between signs of life
SILENCE = 5.0  # seconds without one, the latter half of them without any use of a processor: a frozen process
START = 60.0  # seconds until the first one
ORPHANED = "JAX distributed service detected fatal errors"  # the runtime, as it ends a process that lost the first one


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a process is told by the one that started it."""

    place: Place
    run_id: str
    """the ID of the run, which is continued if it exists"""


def assignment() -> Assignment | None:
    """Returns what this process was told, and starts giving signs of life; None in the one that the user started."""
    if not supervised():
        return None
    told = json.loads(os.environ[VARIABLE])
    threading.Thread(target=_beat, args=[told["pipe"]], name="heartbeat", daemon=True).start()
    return Assignment(Place(**told["place"]), told["run_id"])


def supervised() -> bool:
    """Whether this process was started by `supervise`, which then decides when a second signal kills."""
    return VARIABLE in os.environ


def _beat(pipe: int) -> None:
    while True:
        try:
            os.write(pipe, b".")
        except BlockingIOError:
            pass  # the supervisor itself stands still
        except OSError:
            os._exit(LOST)  # it is gone, and a second start of the command would find this process in its way
        time.sleep(BEAT)


class _Worker:
    """A started process, what it printed, and when it was last heard."""

    def __init__(self, place: Place, run_id: str, *, alone: bool):
        self.place = place
        self.pipe, theirs = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(theirs, False)
        told = {"place": dataclasses.asdict(place), "run_id": run_id, "pipe": theirs}
        local = {} if alone else {"JAX_LOCAL_DEVICE_IDS": str(place.index)}  # of accelerators
        # The runtime's own account of a lost process is long, and says less than ours.
        quiet = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
        self.process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, **quiet, **local, VARIABLE: json.dumps(told)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=[theirs],
            start_new_session=True,  # a Ctrl-C in the terminal comes to the parent alone
        )
        os.close(theirs)
        self.name = "the process" if place.count == 1 else f"process {place.index} of {place.count}"
        self.orphaned = self.frozen = self.heard = False
        self._last, self._used = time.monotonic(), -1
        assert self.process.stderr is not None
        self._relay = threading.Thread(target=self._pass_on, args=[self.process.stderr], daemon=True)
        self._relay.start()

    def _pass_on(self, lines: Iterable[str]) -> None:
        prefix = f"process {self.place.index}: " if self.place.index > 0 else ""
        for line in lines:
            self.orphaned |= ORPHANED in line
            if not self.orphaned:
                print(prefix + line, end="", file=sys.stderr, flush=True)

    def listen(self, paused: float) -> None:
        """Notes signs of life, and their absence; `paused` seconds of it this process itself was not running."""
        self._last += paused
        with contextlib.suppress(BlockingIOError):
            if os.read(self.pipe, 2**16):
                self.heard, self._last, self._used = True, time.monotonic(), -1
        silent, limit = time.monotonic() - self._last, self.patience
        if silent > limit / 2 and self._used < 0:
            self._used = self._processor_time()
        if silent > limit:
            self.frozen = self._processor_time() == self._used
            self._last, self._used = time.monotonic(), -1

    @property
    def patience(self) -> float:
        """Seconds without a sign of life that it may take."""
        return SILENCE if self.heard else START

    def _processor_time(self) -> int:
        """The processor time used, by which a process too busy to give signs of life is no frozen one."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # a system that does not tell
            return 0
        return int(fields[11]) + int(fields[12])

    def problem(self) -> str | None:
        """Returns what has happened to it as a clause; None if nothing, "" if the same as to another."""
        code = self.process.poll()
        if self.frozen and code is None:
            return f"{self.name} (pid {self.process.pid}) has stood still for {self.patience:.0f} s"
        if code in (None, 0, STOPPED):
            return None
        if self.orphaned:
            return f"process 0 of {self.place.count} ({self.place.coordinator or 'see its own output'}) does not answer"
        if code == LOST:
            return ""
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{self.name} (pid {self.process.pid}) {how}"

    def end(self) -> None:
        """Kills it if it still runs, and passes on the last it printed."""
        self.process.kill()
        self.process.wait()
        self._relay.join(1)
        os.close(self.pipe)


class _Outcome(NamedTuple):
    code: int
    problem: str
    wait: float = 0.0
    """seconds until peers on other machines know of it too"""


def supervise(places: Sequence[Place], run_id: str, restarts: int) -> int:
    """Runs the command that started this process once for each place; returns the exit code.

    A first SIGINT or SIGTERM asks all to stop, a second one kills them. When one is lost, the others are killed, and
    all started again, `restarts` times at most. A user's mistake (exit code 2) is not repeated.

    Args:
        places: those of a whole run on this machine, or the single one of this machine.
        run_id: the run that these processes make, and continue when they are started again.
        restarts: how often to start again.
    """
    with signals(signal.SIGINT, signal.SIGTERM) as received:
        for left in range(restarts, -1, -1):
            outcome = _attempt(places, run_id, received)
            if received and outcome.code:
                return 128 + received[-1]
            if outcome.code in (0, USER_ERROR):
                return outcome.code
            beginning = f"{outcome.problem}; " if outcome.problem else ""
            if left:
                _say(f"{beginning}starting again from the last good checkpoint, {left} of {restarts} restarts left")
                time.sleep(outcome.wait)  # or it would meet those that are about to end
            else:
                _say(f"{beginning}add --resume to the command to continue, or --restarts 3 to have that done")
    return 1


def _attempt(places: Sequence[Place], run_id: str, received: Sequence[int]) -> _Outcome:
    workers = [_Worker(place, run_id, alone=len(places) == 1) for place in _meeting(places)]
    asked, before = False, time.monotonic()
    try:
        while any(worker.process.poll() != 0 for worker in workers):
            time.sleep(0.05)
            now = time.monotonic()
            for worker in workers:
                worker.listen(paused=max(0.0, now - before - 1))
            before = now
            # One that has stopped with nothing to save takes the others with it, who have nothing to save either.
            stopped = any(worker.process.poll() == STOPPED for worker in workers)
            if not asked and (received or stopped):
                asked = True
                for worker in workers:
                    worker.process.terminate()
            if len(received) > 1:
                return _Outcome(1, "")
            left = [worker for worker in workers if worker.process.poll() is None] if stopped else workers
            if any(worker.problem() is not None for worker in left):
                return _verdict(workers)
            if not left:
                break
    finally:
        for worker in workers:
            worker.end()
        show_cursor()
    return _Outcome(0, "")


def _meeting(places: Sequence[Place]) -> list[Place]:
    """Gives processes of this machine alone a free port to meet at."""
    if len(places) == 1:
        return list(places)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return [dataclasses.replace(place, coordinator=f"127.0.0.1:{port}") for place in places]


def _verdict(workers: Sequence[_Worker]) -> _Outcome:
    """Waits a moment for what else comes of the first problem, and returns the cause: not what followed from it."""
    mistaken = [worker for worker in workers if worker.process.poll() == USER_ERROR]
    with contextlib.suppress(subprocess.TimeoutExpired):
        for worker in workers:  # the first process tells a mistake that only another one has met
            worker.process.wait(5 if mistaken else 0.3)
    if any(worker.process.poll() == USER_ERROR for worker in workers):
        return _Outcome(USER_ERROR, "")
    problems = [(worker, problem) for worker in workers if (problem := worker.problem()) is not None]
    worker, problem = min(problems, key=lambda pair: (pair[0].orphaned, not pair[1]))
    if len(workers) > 1 or worker.place.count == 1 or worker.orphaned or worker.process.poll() == LOST:
        return _Outcome(1, problem)
    return _Outcome(1, problem, wait=2 if worker.place.index == 0 else SILENCE_OF_PEERS + 2)


def show_cursor() -> None:
    """Shows the cursor, which a progress bar that was killed leaves hidden."""
    if sys.stdout.isatty():
        print("\x1b[?25h", end="", flush=True)


@contextlib.contextmanager
def signals(*numbers: signal.Signals) -> Iterator[list[int]]:
    """Yields the list of those of these signals received so far, which do not end the program meanwhile."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
