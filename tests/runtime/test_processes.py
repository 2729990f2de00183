"""Which process of its run a process is: from options and launchers; combinations that do not fit are refused."""

import pytest

from research.core.errors import UserError
from research.runtime import processes
from research.runtime.processes import Processes, ProcessInfo, broadcast_from_first, processes_to_start

INDEXED_JOB = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
TPU = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2"}


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        (Processes(), {}, []),
        (Processes(restarts=3), {}, [ProcessInfo()]),
        (Processes(local_processes=2), {}, [ProcessInfo(0, 2), ProcessInfo(1, 2)]),
        (Processes("node1:99", 2, 1), {}, [ProcessInfo(1, 2, "node1:99")]),
        (Processes(), SLURM, [ProcessInfo(2, 4)]),
        (Processes(), OPEN_MPI, [ProcessInfo(1, 2)]),
        (Processes("node1:99"), OPEN_MPI, [ProcessInfo(1, 2, "node1:99")]),
        (Processes(), TPU, [ProcessInfo(5, 6)]),
        (Processes("pod-0.job:99", 2), INDEXED_JOB, [ProcessInfo(1, 2, "pod-0.job:99")]),
        (Processes("pod-0.job:99", 2, 0), INDEXED_JOB, [ProcessInfo(0, 2, "pod-0.job:99")]),
        (Processes(processes=2), INDEXED_JOB, [ProcessInfo(1, 2)]),
        (Processes(), INDEXED_JOB | TPU, [ProcessInfo(5, 6)]),
        (Processes(), INDEXED_JOB | OPEN_MPI, [ProcessInfo(1, 2)]),
        (Processes(processes=8), {"TPU_ML_PLATFORM": "JAX"}, [ProcessInfo(-1, 8)]),
    ],
)
def test_options_and_launchers_say_what_to_start(options, environment, expected):
    """Explicit options, Slurm, Open MPI, Kubernetes and TPU pods; one process alone needs no other to start it."""
    assert processes_to_start(options, environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        INDEXED_JOB,
    ],
)
def test_what_only_looks_like_a_cluster_trains_alone(environment):
    """The script of a Slurm job, an interactive step, a single TPU host, a lone pod and an array of pods."""
    assert processes_to_start(Processes(), environment) == []


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (Processes(local_processes=2, coordinator="a:1"), {}, "leave it out where"),
        (Processes(local_processes=2), SLURM, "leave it out where"),
        (Processes(coordinator="node1", processes=2, process=0), {}, "node1 is not HOST:PORT"),
        (Processes(coordinator="node1:99"), {}, "takes --processes N and --process I too"),
        (Processes(coordinator="node1:99", processes=2, process=2), {}, "no process 2 of 2: give --process 0 to 1"),
        (Processes("node1:99"), INDEXED_JOB, "takes --processes N and --process I too"),
        (Processes(processes=8), {}, "Nothing says which of the 8 processes this is: give --process 0 to 7 and"),
        (Processes(processes=8), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Nothing says which of the 8"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, environment, message):
    """One sentence that says what to do."""
    with pytest.raises(UserError, match=message):
        processes_to_start(options, environment)


def test_one_process_agrees_with_itself():
    """Without others a value is passed through as it is."""
    value = {"step": None}
    assert broadcast_from_first(value) is value


@pytest.mark.parametrize(("coordinator", "bound"), [("127.0.0.1:9876", "127.0.0.1:9876"), ("node1:9876", None)])
def test_the_processes_of_one_machine_meet_where_no_other_reaches_them(coordinator, bound, monkeypatch):
    """The coordinator of others binds as JAX does, for they come from other machines."""
    given: dict[str, object] = {}

    def initialize(*_: object, **options: object) -> None:
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes.jax_internals, "keep_running_without_peers", lambda: None)
    monkeypatch.setattr(processes.os, "dup2", lambda *_: None)
    with pytest.raises(UserError, match="Where the processes meet"):
        processes._initialize(ProcessInfo(0, 2, coordinator))
    assert given["coordinator_bind_address"] == bound
