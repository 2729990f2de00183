"""A parent that starts the processes of a run, sees when one dies or stands still, and starts them all again.

`supervise` runs the very command of the user once for each process; in a process started so `assignment` says which it
is, and sends heartbeats. What the supervisor decides is a pure function, `supervisor_state.transition`; this file has
the processes, pipes and signals around it. A run on several processes always has a supervisor: when the first process
is lost, JAX's runtime ends the others without a sentence of ours, and the supervisor prints one.
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

from research.core.terminal import print_message
from research.runtime.processes import LOOPBACK, LOST, ProcessInfo
from research.runtime.supervisor_state import Observation, Phase, SupervisorState, WorkerStatus, transition

VARIABLE = "ONTOGENY_WORKER"  # the environment variable that holds the message to a worker
POLL_SECONDS = 0.05  # between observations
HEARTBEAT_SECONDS = 0.5  # between heartbeats
# Without a heartbeat for so long, and in the latter half without any use of a processor, a process is frozen.
HEARTBEAT_TIMEOUT_SECONDS = 5.0
START_TIMEOUT_SECONDS = 60.0  # the same before the first heartbeat
# What JAX's runtime prints as it ends a process that has lost the first one.
LOST_FIRST = "JAX distributed service detected fatal errors"


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What the supervisor tells a process that it starts."""

    info: ProcessInfo
    run_id: str
    """the ID of the run, which is continued if it exists"""


def assignment() -> Assignment | None:
    """Returns this process's assignment, and starts its heartbeat; None in the process that the user has started."""
    if not supervised():
        return None
    message = json.loads(os.environ[VARIABLE])
    threading.Thread(target=_heartbeat, args=[message["pipe"]], name="heartbeat", daemon=True).start()
    return Assignment(ProcessInfo(**message["info"]), message["run_id"])


def supervised() -> bool:
    """Whether this process was started by `supervise`, which then decides when a second signal kills."""
    return VARIABLE in os.environ


def _heartbeat(pipe: int) -> None:
    while True:
        try:
            os.write(pipe, b".")
        except BlockingIOError:
            pass  # the supervisor itself stands still
        except OSError:
            os._exit(LOST)  # the supervisor has ended, and a second start of the command would find this process
        time.sleep(HEARTBEAT_SECONDS)


def supervise(infos: Sequence[ProcessInfo], run_id: str, restarts: int) -> int:
    """Runs the command that started this process once for each of `infos`; returns the exit code.

    A first SIGINT or SIGTERM asks all to stop, a second one kills them. When one is lost, the others are killed, and
    all started again, `restarts` times at most. A user's mistake (exit code 2) is not repeated.

    Args:
        infos: the processes of a whole run on this machine, or the single one of this machine.
        run_id: the run that these processes make, and continue when they are started again.
        restarts: how often to start again.
    """
    with signals(signal.SIGINT, signal.SIGTERM) as received:
        state, workers = SupervisorState(restarts, restarts_left=restarts), _start(infos, run_id)
        phase_began = observed_last = time.monotonic()
        try:
            while state.phase is not Phase.ENDED:
                time.sleep(POLL_SECONDS)
                now = time.monotonic()
                statuses = [worker.observe(paused=max(0.0, now - observed_last - 1)) for worker in workers]
                before, observed_last = state, now
                state = transition(state, Observation(statuses, tuple(received), now - phase_began))
                if state.phase is not before.phase:
                    workers = _enter(state, workers, infos, run_id)
                    phase_began = observed_last = time.monotonic()
        finally:
            _kill(workers)
    return state.exit_code


def _enter(
    state: SupervisorState, workers: list["_Worker"], infos: Sequence[ProcessInfo], run_id: str
) -> list["_Worker"]:
    """Does what a new phase asks for; returns the processes that there are then."""
    match state.phase:
        case Phase.RUNNING:
            return workers or _start(infos, run_id)
        case Phase.STOPPING:
            for worker in workers:
                worker.process.terminate()
        case Phase.RESTARTING | Phase.ENDED:
            _kill(workers)
            if state.message:
                print_message(state.message)
            return []
    return workers


def _start(infos: Sequence[ProcessInfo], run_id: str) -> list["_Worker"]:
    """Starts the processes; those of this machine alone get a free port as their coordinator's."""
    if len(infos) == 1:
        return [_Worker(infos[0], run_id, alone=True)]
    with socket.create_server((LOOPBACK, 0)) as free:
        coordinator = f"{LOOPBACK}:{free.getsockname()[1]}"
    return [_Worker(dataclasses.replace(info, coordinator=coordinator), run_id, alone=False) for info in infos]


def _kill(workers: Sequence["_Worker"]) -> None:
    for worker in workers:
        worker.kill()
    show_cursor()


class _Worker:
    """A started process, what it prints, and when its last heartbeat came."""

    def __init__(self, info: ProcessInfo, run_id: str, *, alone: bool):
        self.info = info
        self.pipe, theirs = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(theirs, False)
        message = {"info": dataclasses.asdict(info), "run_id": run_id, "pipe": theirs}
        # Of accelerators, and where they exchange data: over this machine's own interface, which no other reaches.
        own = {"NCCL_SOCKET_IFNAME": "lo", **os.environ, "JAX_LOCAL_DEVICE_IDS": str(info.index)}
        # The runtime's own account of a lost process is long, and says less than ours.
        quiet = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
        self.process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**(os.environ if alone else own), **quiet, VARIABLE: json.dumps(message)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=[theirs],
            start_new_session=True,  # a Ctrl-C in the terminal comes to the parent alone
        )
        os.close(theirs)
        self._has_lost_first = self._frozen = self._has_started = False
        self._last_heartbeat = time.monotonic()
        self._processor_time: int | None = None  # as of the middle of a silence
        assert self.process.stderr is not None
        self._relay = threading.Thread(target=self._pass_on, args=[self.process.stderr], daemon=True)
        self._relay.start()

    def _pass_on(self, lines: Iterable[str]) -> None:
        prefix = f"process {self.info.index}: " if self.info.index > 0 else ""
        for line in lines:
            self._has_lost_first |= LOST_FIRST in line
            if not self._has_lost_first:
                with contextlib.suppress(OSError):
                    print(prefix + line, end="", file=sys.stderr, flush=True)

    def observe(self, paused: float) -> WorkerStatus:
        """Reads the heartbeats since the last call; `paused` seconds of it the supervisor itself was not running."""
        self._last_heartbeat += paused
        with contextlib.suppress(BlockingIOError):
            if os.read(self.pipe, 2**16):
                self._has_started = True
                self._silence_ends()
        silent = time.monotonic() - self._last_heartbeat
        timeout = HEARTBEAT_TIMEOUT_SECONDS if self._has_started else START_TIMEOUT_SECONDS
        if silent > timeout / 2 and self._processor_time is None:
            self._processor_time = _processor_time(self.process.pid)
        if silent > timeout:
            # A process too busy for heartbeats uses the processor: it is not frozen.
            self._frozen = _processor_time(self.process.pid) == self._processor_time
            self._silence_ends()
        frozen_seconds = timeout if self._frozen else 0.0
        return WorkerStatus(self.info, self.process.pid, self.process.poll(), frozen_seconds, self._has_lost_first)

    def _silence_ends(self) -> None:
        self._last_heartbeat, self._processor_time = time.monotonic(), None

    def kill(self) -> None:
        """Kills it if it still runs, and passes on the last it printed."""
        self.process.kill()
        self.process.wait()
        self._relay.join(1)
        os.close(self.pipe)


def _processor_time(pid: int) -> int:
    """Returns the processor time that a process has used, in clock ticks; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


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
