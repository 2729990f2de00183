"""What a supervisor does next: its states, and `transition`, the pure function from one state to the next.

A supervisor observes its processes, the signals sent to it and the clock some twenty times a second, and acts when the
phase changes (`supervisor.py`): it asks the processes to stop, kills them, or starts them again. The first row whose
condition holds decides; where none does the state stays.

| phase                | observed                                                | next phase                          |
|----------------------|---------------------------------------------------------|-------------------------------------|
| ENDED                | anything                                                | ENDED                               |
| RUNNING, STOPPING    | every process has ended with exit code 0                | ENDED, exit code 0                  |
| any but ENDED        | a second signal                                         | ENDED, exit code 128 + signal       |
| RUNNING              | a signal, or a process that a signal has stopped        | STOPPING: all are asked to stop     |
| STOPPING             | a signal has stopped one, and none still runs           | ENDED, exit code 0                  |
| RUNNING, STOPPING    | a process has failed, or is frozen                      | DIAGNOSING: others may fail as well |
| DIAGNOSING           | all have ended, or time is up; a signal came before     | ENDED, exit code 128 + signal       |
| DIAGNOSING           | the same; a process has found a user's mistake          | ENDED, exit code 2                  |
| DIAGNOSING           | the same; the frozen process has ended with 0           | RUNNING                             |
| DIAGNOSING           | the same; restarts are left                             | RESTARTING: all are killed          |
| DIAGNOSING           | the same; none are left                                 | ENDED, exit code 1                  |
| RESTARTING           | processes on other machines know of it                  | RUNNING: all are started again      |
"""

import dataclasses
import enum
import signal
from collections.abc import Sequence

from research.runtime.processes import FAILED, LOST, PEER_TIMEOUT_SECONDS, STOPPED, USER_ERROR, ProcessInfo

DIAGNOSIS_TIMEOUT_SECONDS = 0.3  # in which what follows from one cause happens to the other processes
USER_ERROR_TIMEOUT_SECONDS = 5.0  # in which the first process prints a mistake that only another one has found


class Phase(enum.Enum):
    """What a supervisor is at."""

    RUNNING = "the processes run"
    STOPPING = "they have been asked to stop"
    DIAGNOSING = "one has failed, and the others may say more about the cause"
    RESTARTING = "all have been killed, and are about to be started again"
    ENDED = "all have ended or have been killed"


@dataclasses.dataclass(frozen=True)
class SupervisorState:
    """Where a supervisor stands."""

    restarts: int
    """how often it may start the processes again"""
    restarts_left: int
    phase: Phase = Phase.RUNNING
    exit_code: int = 0
    """of the supervisor, once it has ended"""
    message: str = ""
    """what to print on entering the phase"""
    wait_seconds: float = 0.0
    """time to spend in RESTARTING"""


@dataclasses.dataclass(frozen=True)
class WorkerStatus:
    """One process as its supervisor sees it."""

    info: ProcessInfo
    pid: int
    exit_code: int | None = None
    """None while it runs; the negative number of the signal that has killed it"""
    frozen_seconds: float = 0.0
    """how long it has given no sign of life, where that is too long, else 0"""
    has_lost_first: bool = False
    """whether JAX's runtime has said that process 0 does not answer"""


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a supervisor sees at one moment."""

    workers: Sequence[WorkerStatus]
    signals: Sequence[int] = ()
    """received since the start, oldest first"""
    seconds: float = 0.0
    """since the phase began"""


def transition(state: SupervisorState, observed: Observation) -> SupervisorState:
    """Returns the state after an observation: the table at the top of this file."""
    if state.phase is Phase.ENDED:
        return state
    active = state.phase in (Phase.RUNNING, Phase.STOPPING)
    if active and all(worker.exit_code == 0 for worker in observed.workers):
        return _ended(state, 0)
    if len(observed.signals) > 1:
        return _ended(state, 128 + observed.signals[-1])
    if active:
        return _while_active(state, observed)
    if state.phase is Phase.DIAGNOSING and _is_diagnosed(observed):
        return _after_failure(state, observed)
    if state.phase is Phase.RESTARTING and observed.seconds >= state.wait_seconds:
        return SupervisorState(state.restarts, state.restarts_left - 1)
    return state


def _while_active(state: SupervisorState, observed: Observation) -> SupervisorState:
    """The transitions from RUNNING and STOPPING."""
    # A process that has stopped with nothing to save takes the others with it, who have nothing to save either: how
    # they end is not a failure.
    has_stopped = any(worker.exit_code == STOPPED for worker in observed.workers)
    if state.phase is Phase.RUNNING and (observed.signals or has_stopped):
        return dataclasses.replace(state, phase=Phase.STOPPING)
    running = [worker for worker in observed.workers if worker.exit_code is None]
    if has_stopped and not running:
        return _ended(state, 0)
    if any(problem(worker) is not None for worker in (running if has_stopped else observed.workers)):
        return dataclasses.replace(state, phase=Phase.DIAGNOSING)
    return state


def _is_diagnosed(observed: Observation) -> bool:
    """Whether nothing more can be learned about a failure."""
    found_mistake = any(worker.exit_code == USER_ERROR for worker in observed.workers)
    timeout = USER_ERROR_TIMEOUT_SECONDS if found_mistake else DIAGNOSIS_TIMEOUT_SECONDS
    return observed.seconds >= timeout or all(worker.exit_code is not None for worker in observed.workers)


def _after_failure(state: SupervisorState, observed: Observation) -> SupervisorState:
    """The transitions from DIAGNOSING."""
    if observed.signals:
        return _ended(state, 128 + observed.signals[-1])
    if any(worker.exit_code == USER_ERROR for worker in observed.workers):
        return _ended(state, USER_ERROR)  # it has printed the mistake, which a restart would only repeat
    failed = [(worker, text) for worker in observed.workers if (text := problem(worker)) is not None]
    if not failed:
        return dataclasses.replace(state, phase=Phase.RUNNING)
    # The cause goes before what follows from it: the loss of process 0, and then that of any other.
    worker, text = min(failed, key=lambda pair: (pair[0].has_lost_first, not pair[1]))
    beginning = f"{text}; " if text else ""
    if not state.restarts_left:
        message = f"{beginning}add --resume to the command to continue, or --restarts 3 to have that done"
        return _ended(state, FAILED, message)
    left = f"{state.restarts_left} of {state.restarts} restarts left"
    return dataclasses.replace(
        state,
        phase=Phase.RESTARTING,
        message=f"{beginning}starting again from the last good checkpoint, {left}",
        wait_seconds=_seconds_until_peers_know(worker, alone=len(observed.workers) == 1),
    )


def _seconds_until_peers_know(failed: WorkerStatus, *, alone: bool) -> float:
    """The time after which processes on other machines have ended too; one started before would meet those."""
    if not alone or failed.info.count == 1 or failed.has_lost_first or failed.exit_code == LOST:
        return 0.0
    return 2.0 if failed.info.index == 0 else PEER_TIMEOUT_SECONDS + 2.0


def _ended(state: SupervisorState, exit_code: int, message: str = "") -> SupervisorState:
    return dataclasses.replace(state, phase=Phase.ENDED, exit_code=exit_code, message=message)


def problem(worker: WorkerStatus) -> str | None:
    """Returns what is wrong with a process as a clause; None where nothing is, "" where others say it."""
    info, code = worker.info, worker.exit_code
    name = "the process" if info.count == 1 else f"process {info.index} of {info.count}"
    if code is None:
        stands_still = f"{name} (pid {worker.pid}) has stood still for {worker.frozen_seconds:.0f} s"
        return stands_still if worker.frozen_seconds else None
    if code in (0, STOPPED):
        return None
    if worker.has_lost_first:
        return f"process 0 of {info.count} ({info.coordinator or 'see its own output'}) does not answer"
    if code == LOST:
        return ""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{name} (pid {worker.pid}) {how}"
