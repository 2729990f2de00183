"""Several processes as one program: where they meet, what they agree on, and the end of all when one is missing.

JAX's own multi-controller runtime does the work. `joined` starts it and has its coordination service watch the others;
inside, `first` says who writes and `agreed` tells everyone what the first process knows. On one process these do
nothing.
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
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.core.errors import UserError
from research.runtime import jax_internals

SILENCE = 10  # seconds without a sign of life after which the coordination service counts a process as lost
MEETING = 120  # seconds within which all processes must have come
# Exit codes: a bug, a user's mistake, a survivor's of a lost process, and, told to a supervisor, a signal's.
FAILED, USER_ERROR, LOST, STOPPED = 1, 2, 75, 76
NAMES, ENDED = "ontogeny/name/", "ontogeny/ended/"


@dataclasses.dataclass(frozen=True)
class Processes:
    """How many processes train together, and where they meet; Slurm, Open MPI and TPU pods say so by themselves.

    The pods of an Indexed Job on Kubernetes know which they are, but neither how many nor where they meet.
    """

    coordinator: str = ""
    """HOST:PORT at which the others reach process 0"""
    processes: int = 0
    """processes in all, on all machines (0: as the cluster says, else one)"""
    process: int = -1
    """number of this process, from 0 (-1: as the cluster says)"""
    local_processes: int = 0
    """start so many processes on this machine, with one accelerator each where there are any"""
    restarts: int = 0
    """how often to start again, from the last good checkpoint, after losing a process"""


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a process among those of its run."""

    index: int = 0
    """its number, -1 where only JAX can find it out"""
    count: int = 1
    coordinator: str = ""
    """HOST:PORT of process 0, empty where only JAX can find it out"""


def places(options: Processes, environment: Mapping[str, str]) -> list[Place]:
    """Returns the places of the processes to start here: of a whole run, or of this one among those of a cluster.

    None need be started where the process that the user has started trains alone, with nobody to start it again.

    Raises:
        UserError: the options do not fit one another.
    """
    count, index = _cluster(environment)
    count = options.processes or count
    if options.process >= 0 or not count:
        index = options.process
    host, _, port = options.coordinator.rpartition(":")
    if min(options.restarts, options.local_processes, options.processes) < 0:
        raise UserError("--restarts, --processes and --local-processes are counts: give 0 or more.")
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
        return [Place(index, options.local_processes) for index in range(options.local_processes)]
    if count > 1:
        return [Place(index, count, options.coordinator)]
    return [Place()] if options.restarts else []


def _cluster(environment: Mapping[str, str]) -> tuple[int, int]:
    """Returns (count, index) as the launcher of a cluster says; 0 and -1 for what it does not say."""
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


def first() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def agreed(value: Any) -> Any:
    """Returns what the first process gave, a JSON value, on every process; all must call it."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode() if first() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.resize(text, size) if first() else np.zeros(size, np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())


@contextlib.contextmanager
def joined(here: Place) -> Iterator[None]:
    """Makes this process one of its run's until all of them have come to the end of the block.

    After it the first process goes on alone. Where one is lost, or fails, the others end with one sentence that names
    it, and with exit code 75, or its own.
    """
    if here.count == 1:
        yield
        return
    peers, over = _meet(here), threading.Event()
    watch = threading.Thread(target=_watch, args=[peers, over], name="peers", daemon=True)
    watch.start()
    try:
        yield
        _end(peers, 0, "")
        peers.client.wait_at_barrier("ontogeny/end", 1000 * 3600)
    except UserError as error:
        _end(peers, USER_ERROR, str(error))
        _linger(peers)
        _exit(USER_ERROR, not peers.index and str(error))
    except Exception as error:
        # A lost peer breaks the computation under way at once, and is known as lost only when its silence has lasted.
        time.sleep(SILENCE + 3)
        _end(peers, FAILED, f"{type(error).__name__}: {error}")
        traceback.print_exc()
        _linger(peers)
        _exit(FAILED, False)
    over.set()
    if peers.index:
        jax.distributed.shutdown()
        _exit(0, False)
    watch.join(SILENCE)  # the interpreter cannot end while it waits for an answer


@dataclasses.dataclass(frozen=True)
class _Peers:
    """The coordination service as seen from process `index`, and the name of every process."""

    client: Any
    index: int
    names: Sequence[str]


def _meet(here: Place) -> _Peers:
    # What the runtime writes to standard output itself is nobody's result.
    printed, nowhere = os.fdopen(os.dup(1), "w"), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    jax_internals.keep_running_without_peers()
    try:
        jax.distributed.initialize(
            here.coordinator or None,
            here.count,
            here.index if here.index >= 0 else None,
            cluster_detection_method="deactivate" if here.coordinator else None,
            initialization_timeout=MEETING,
            heartbeat_timeout_seconds=SILENCE,
        )
    except ValueError as error:
        raise UserError(f"Where the processes meet is not known ({error}): give --coordinator HOST:PORT.") from None
    except RuntimeError as error:
        where = f" at {here.coordinator}" if here.coordinator else ""
        _exit(LOST, f"the {here.count} processes have not met{where} within {MEETING} s ({error})")
    client, index = jax_internals.coordination_client()
    name = f"process {index} of {here.count} ({socket.gethostname()}, pid {os.getpid()})"
    client.key_value_set(f"{NAMES}{index}", name)
    sys.stdout = os.fdopen(nowhere, "w") if index else printed  # the first process prints for all
    names = [client.blocking_key_value_get(f"{NAMES}{each}", 1000 * MEETING) for each in range(here.count)]
    return _Peers(client, index, names)


def _end(peers: _Peers, code: int, reason: str) -> None:
    peers.client.key_value_set(f"{ENDED}{peers.index}", f"{code} {reason}", allow_overwrite=True)


def _ended(peers: _Peers) -> dict[int, tuple[int, str]]:
    """Returns the exit code, and the reason, of each process that has come to its end by itself."""
    texts = {int(key.rpartition("/")[2]): text.split(" ", 1) for key, text in peers.client.key_value_dir_get(ENDED)}
    return {index: (int(code), reason) for index, (code, reason) in texts.items()}


def _watch(peers: _Peers, over: threading.Event) -> None:
    """Ends this process when another has failed or is lost; the lowest-numbered survivor says so."""
    everyone = set(range(len(peers.names)))
    while not over.wait(1):
        try:
            for other, (code, reason) in _ended(peers).items():
                if code and other != peers.index:
                    _linger(peers)
                    _exit(code, peers.index == 0 and f"{peers.names[other]} has stopped: {reason}")
            live = peers.client.get_live_nodes(sorted(everyone))  # once all that are live have asked
            missing = sorted(everyone - live.keys() - _ended(peers).keys())
        except RuntimeError:
            return  # the first process is lost, upon which the runtime ends this one
        if missing:
            listed = ", ".join(peers.names[other] for other in missing)
            _linger(peers)
            _exit(LOST, peers.index == min(live) and f"{listed} is lost: no sign of life for {SILENCE} s")


def _linger(peers: _Peers) -> None:
    """Has the first process, and the service with it, outlast the others, who ask it every second what has happened."""
    time.sleep(0 if peers.index else 3)


def _exit(code: int, sentence: str | bool) -> NoReturn:
    """Ends the process at once: its main thread may hang in a computation that waits for a lost process."""
    if sentence:
        print(f"error: {sentence}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
