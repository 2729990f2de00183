"""Several processes as one program: which they are, what they agree on, and one end for all when one is lost.

JAX's own multi-controller runtime does the work. `distributed_session` starts it and watches the other processes by its
coordination service; inside, `is_main_process` says who writes, and `broadcast_from_first` gives every process what
the first one knows. On one process these do nothing.
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.core.errors import UserError
from research.core.ranges import Limit, Range
from research.core.terminal import print_message
from research.runtime import jax_internals

# Exit codes of a process.
FAILED = 1  # a bug
USER_ERROR = 2  # a user's mistake
LOST = 75  # another process is lost
STOPPED = 76  # for a supervisor alone: a signal has ended the process, with nothing to save

LOOPBACK = "127.0.0.1"  # where the processes of a run on one machine meet
PEER_TIMEOUT_SECONDS = 10  # without a heartbeat, after which the coordination service counts a process as lost
INITIALIZATION_TIMEOUT_SECONDS = 120  # in which all processes must have connected
END_TIMEOUT_SECONDS = 3600  # in which all processes must have come to the end, once one has
NAME_KEY, END_KEY = "ontogeny/name/", "ontogeny/ended/"  # of the coordination service's key-value store


@dataclasses.dataclass(frozen=True)
class Processes:
    """How many processes train together, and where they meet; on Slurm, Open MPI and TPU pods the environment says so.

    The pods of an Indexed Job on Kubernetes know their index, but neither how many they are nor where they meet.
    """

    coordinator: str = ""
    """HOST:PORT at which the others reach process 0; to be reachable from a private network alone, as it has no key"""
    processes: Annotated[int, Range(0, 2**16)] = 0
    """processes in all, on all machines (0: as the cluster says, else one)"""
    process: Annotated[int, Range(-1, 2**16)] = -1
    """number of this process, from 0 (-1: as the cluster says)"""
    local_processes: Annotated[int, Range(0, 256)] = 0
    """start so many processes on this machine, which no other reaches, with one accelerator each where there are any"""
    restarts: Limit = 0
    """how often to start again, from the last good checkpoint, after losing a process"""


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
    """Which process of its run a process is."""

    index: int = 0
    """its number, -1 where only JAX can find it out"""
    count: int = 1
    """processes of the run"""
    coordinator: str = ""
    """HOST:PORT of process 0, empty where only JAX can find it out"""


def processes_to_start(options: Processes, environment: Mapping[str, str]) -> list[ProcessInfo]:
    """Returns the processes that a supervisor starts here: those of a whole run, or one of a cluster's.

    The list is empty where the process that the user has started trains alone, and need not be started again.

    Raises:
        UserError: the options do not fit one another.
    """
    count, index = _count_and_index(environment)
    count = options.processes or count
    if options.process >= 0 or not count:
        index = options.process
    host, _, port = options.coordinator.rpartition(":")
    if options.local_processes and (options.coordinator or count > 1):
        raise UserError(
            "--local-processes starts all processes of a run on this machine: leave it out where a cluster's launcher, "
            "or --coordinator and --processes, do so."
        )
    if options.coordinator and not (host and port.isdigit()):
        raise UserError(f"--coordinator {options.coordinator} is not HOST:PORT: give one such as node1:9876.")
    if options.coordinator and (count < 1 or index < 0):
        raise UserError("--coordinator takes --processes N and --process I too, unless a cluster's launcher says them.")
    if count > 1 and index < 0 and "TPU_ML_PLATFORM" not in environment:  # JAX sets it where it can ask a TPU's host
        raise UserError(
            f"Nothing says which of the {count} processes this is: give --process 0 to {count - 1} and --coordinator "
            f"HOST:PORT, or --local-processes {count} to start them all on this machine."
        )
    if index >= max(count, 1):
        raise UserError(f"There is no process {index} of {max(count, 1)}: give --process 0 to {max(count, 1) - 1}.")
    if options.local_processes > 1:
        return [ProcessInfo(index, options.local_processes) for index in range(options.local_processes)]
    if count > 1:
        return [ProcessInfo(index, count, options.coordinator)]
    return [ProcessInfo()] if options.restarts else []


def _count_and_index(environment: Mapping[str, str]) -> tuple[int, int]:
    """Returns (count, index) from the environment of a cluster's launcher; 0 and -1 for what it does not say."""
    hosts = (environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or "").split(",")
    if len(hosts) > 1 and "TPU_WORKER_ID" in environment:
        slices, number = (int(environment.get(f"MEGASCALE_{name}") or 0) for name in ("NUM_SLICES", "SLICE_ID"))
        return max(slices, 1) * len(hosts), number * len(hosts) + int(environment["TPU_WORKER_ID"])
    # Those of a step, which srun starts: the script of a job, and a shell of salloc, see the tasks of the job as well.
    for count, index in (("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")):
        if count in environment and index in environment:
            return int(environment[count]), int(environment[index])
    if "KUBERNETES_SERVICE_HOST" in environment:
        # An Indexed Job does not tell its pods how many they are, nor whether they make one run or each its own.
        return 0, int(environment.get("JOB_COMPLETION_INDEX", -1))
    return 0, -1


def is_main_process() -> bool:
    """Returns whether this is the process that prints and writes."""
    return jax.process_index() == 0


def broadcast_from_first(value: Any) -> Any:
    """Returns what the first process gave, a JSON value, on every process; all must call it."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode() if is_main_process() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.resize(text, size) if is_main_process() else np.zeros(size, np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())


@contextlib.contextmanager
def distributed_session(info: ProcessInfo) -> Iterator[None]:
    """Makes this process one of its run's until all of them have come to the end of the block.

    After it the first process goes on alone. Where one is lost, or fails, the others end with one sentence that names
    it, and with exit code 75, or its own.

    The thread that watches the others can end this process wherever it stands: a computation that waits for a lost
    process would never return. No process leaves before all have come to the end, or the others would call it lost.
    """
    if info.count == 1:
        yield
        return
    session = _initialize(info)
    over = threading.Event()
    watch = threading.Thread(target=_watch_peers, args=[session, over], name="peers", daemon=True)
    watch.start()
    try:
        yield
        _agree_on_the_end(session)
    except UserError as error:
        _end_with_user_error(session, error)
    except Exception as error:
        _end_with_bug(session, error)
    over.set()
    if session.index:
        jax.distributed.shutdown()
        _exit(0)
    watch.join(PEER_TIMEOUT_SECONDS)  # the interpreter cannot end while the thread waits for the service's answer


@dataclasses.dataclass(frozen=True)
class _Session:
    """What a process knows of its session."""

    client: Any
    """of the coordination service, which process 0 hosts: a key-value store, barriers and heartbeats"""
    index: int
    """of this process"""
    names: Sequence[str]
    """of every process, for messages"""


def _initialize(info: ProcessInfo) -> _Session:
    """Connects the processes by JAX's runtime, and exchanges their names.

    Raises:
        UserError: nothing says where they meet.
    """
    # What the runtime prints to standard output is no result of the program's: only `sys.stdout` writes there now.
    printed = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    jax_internals.keep_running_without_peers()
    # Whoever reaches the coordinator can end the run: where all processes are on this machine, nobody else does.
    is_local = info.coordinator.startswith(f"{LOOPBACK}:")
    try:
        jax.distributed.initialize(
            info.coordinator or None,
            info.count,
            info.index if info.index >= 0 else None,
            cluster_detection_method="deactivate" if info.coordinator else None,
            coordinator_bind_address=info.coordinator if is_local else None,
            initialization_timeout=INITIALIZATION_TIMEOUT_SECONDS,
            heartbeat_timeout_seconds=PEER_TIMEOUT_SECONDS,
        )
    except ValueError as error:
        raise UserError(f"Where the processes meet is not known ({error}): give --coordinator HOST:PORT.") from None
    except RuntimeError as error:
        where = f" at {info.coordinator}" if info.coordinator else ""
        within = f"within {INITIALIZATION_TIMEOUT_SECONDS} s ({error})"
        _exit(LOST, f"the {info.count} processes have not met{where} {within}")
    if is_local:
        jax_internals.keep_collectives_on_loopback(LOOPBACK)
    client, index = jax_internals.coordination_client()
    sys.stdout = os.fdopen(nowhere, "w") if index else printed  # the first process prints for all
    name = f"process {index} of {info.count} ({socket.gethostname()}, pid {os.getpid()})"
    client.key_value_set(f"{NAME_KEY}{index}", name)
    keys = [f"{NAME_KEY}{each}" for each in range(info.count)]
    names = [client.blocking_key_value_get(key, 1000 * INITIALIZATION_TIMEOUT_SECONDS) for key in keys]
    return _Session(client, index, names)


def _watch_peers(session: _Session, over: threading.Event) -> None:
    """Ends this process when another one has failed or is lost; the lowest-numbered one left says so."""
    everyone = set(range(len(session.names)))
    while not over.wait(1):
        try:
            for peer, (code, reason) in _announced_ends(session).items():
                if code and peer != session.index:
                    _wait_for_peers(session)
                    _exit(code, f"{session.names[peer]} has stopped: {reason}" if session.index == 0 else "")
            live = session.client.get_live_nodes(sorted(everyone))  # returns once all that are live have asked
            missing = sorted(everyone - live.keys() - _announced_ends(session).keys())
        except RuntimeError:
            return  # the first process is lost, upon which the runtime ends this one
        if missing:
            listed = ", ".join(session.names[peer] for peer in missing)
            _wait_for_peers(session)
            message = f"{listed} is lost: no sign of life for {PEER_TIMEOUT_SECONDS} s"
            _exit(LOST, message if session.index == min(live) else "")


def _agree_on_the_end(session: _Session) -> None:
    """Waits until every process has come to its end; what another process announces meanwhile, `_watch_peers` sees."""
    _announce_end(session, 0, "")
    session.client.wait_at_barrier("ontogeny/end", 1000 * END_TIMEOUT_SECONDS)


def _end_with_user_error(session: _Session, error: UserError) -> NoReturn:
    """Ends the process; the first one prints the mistake, its own or another process's."""
    _announce_end(session, USER_ERROR, str(error))
    _wait_for_peers(session)
    _exit(USER_ERROR, "" if session.index else str(error))


def _end_with_bug(session: _Session, error: Exception) -> NoReturn:
    """Ends the process with the trace of an error, unless that follows from the loss of another process."""
    # A lost peer breaks the computation under way at once, but counts as lost only after its silence has lasted:
    # `_watch_peers` ends this process meanwhile.
    time.sleep(PEER_TIMEOUT_SECONDS + 3)
    _announce_end(session, FAILED, f"{type(error).__name__}: {error}")
    traceback.print_exc()
    _wait_for_peers(session)
    _exit(FAILED)


def _announce_end(session: _Session, code: int, reason: str) -> None:
    session.client.key_value_set(f"{END_KEY}{session.index}", f"{code} {reason}", allow_overwrite=True)


def _announced_ends(session: _Session) -> dict[int, tuple[int, str]]:
    """Returns {index: (exit code, reason)} of the processes that have announced their end."""
    entries = session.client.key_value_dir_get(END_KEY)
    texts = {int(key.rpartition("/")[2]): text.split(" ", 1) for key, text in entries}
    return {index: (int(code), reason) for index, (code, reason) in texts.items()}


def _wait_for_peers(session: _Session) -> None:
    """Keeps the first process, and with it the service, until the others, who ask every second, know what happened."""
    time.sleep(0 if session.index else 3)


def _exit(code: int, message: str = "") -> NoReturn:
    """Ends the process at once: its main thread may hang in a computation that waits for a lost process."""
    if message:
        print_message(f"error: {message}")
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)
