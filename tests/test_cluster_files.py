"""Promises of the launch files: what they start is a command that the experiment takes, and a second start resumes."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import ROOT, only_run, record

from experiments import gpt_austen
from research.launch import launcher
from research.runs.directory import write_record
from research.runtime.processes import ProcessInfo, processes_to_start

FOLDER = ROOT / "experiments" / "cluster"
NOTE = 'printf "%s\\n" "$@" > "$COMMAND"'


@pytest.fixture
def jobset() -> dict[str, Any]:
    """The JobSet as Kubernetes reads it."""
    return yaml.safe_load((FOLDER / "jobset.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def script(jobset: dict[str, Any], tmp_path: Path) -> str:
    """What a pod of the JobSet runs, with its volume in `tmp_path`."""
    (text,) = container(jobset)["args"]
    return text.replace("/runs", str(tmp_path / "runs"))


def container(jobset: dict[str, Any]) -> dict[str, Any]:
    """Returns the one container of a pod."""
    (found,) = job(jobset)["template"]["spec"]["containers"]
    return found


def job(jobset: dict[str, Any]) -> dict[str, Any]:
    """Returns the specification of the one Job."""
    (found,) = jobset["spec"]["replicatedJobs"]
    return found["template"]["spec"]


def start(folder: Path, command: Sequence[str], program: str, text: str, **variables: str) -> subprocess.Popen[str]:
    """Starts a command in `folder`, with a script for `program`; what that is given is written to `folder/command`."""
    path = folder / "bin" / program
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    settings = {"PATH": f"{path.parent}:{os.environ['PATH']}", "COMMAND": str(folder / "command"), **variables}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **settings}, text=True, stdout=subprocess.DEVNULL)


def parsed(folder: Path, *before: str) -> launcher.Options:
    """Returns the options of the experiment in `folder/command`, which begins with the words `before`."""
    words = (folder / "command").read_text(encoding="utf-8").splitlines()
    assert words[: len(before)] == list(before)
    return launcher.parse(gpt_austen.CONFIG, args=words[len(before) :])


def write_status(folder: Path, status: str) -> None:
    """Writes the record of a run with `status` under `folder/runs`."""
    run = folder / "runs" / "gpt_austen" / "1"
    run.mkdir(parents=True, exist_ok=True)
    write_record(run, {"id": "1", "status": status})


@pytest.mark.parametrize(
    ("variables", "run_exists", "resumes"),
    [({}, True, False), ({"SLURM_RESTART_COUNT": "1"}, True, True), ({"SLURM_RESTART_COUNT": "1"}, False, False)],
)
def test_slurm_starts_the_command_given(
    tmp_path: Path, variables: dict[str, str], run_exists: bool, resumes: bool
) -> None:
    """`srun` gets the experiment and its options; a requeued job resumes, unless it had not come to a run."""
    if run_exists:
        write_status(tmp_path, "interrupted")
    command = ["bash", str(FOLDER / "slurm.sh"), "experiments.gpt_austen", "--steps", "5000", "--mesh.fsdp", "16"]
    assert start(tmp_path, command, "srun", NOTE, **variables).wait(10) == 0
    options = parsed(tmp_path, ".venv/bin/python", "-m", "experiments.gpt_austen")
    assert (options.experiment.steps, options.experiment.mesh.fsdp) == (5000, 16)
    assert (options.group.restarts, bool(options.resume)) == (3, resumes)
    assert processes_to_start(options.group, {"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "9"}) == [
        ProcessInfo(9, 16)
    ]


@pytest.mark.parametrize(("attempt", "run_exists"), [("0", True), ("1", True), ("1", False)])
def test_a_pod_starts_its_process(
    jobset: dict[str, Any], script: str, tmp_path: Path, attempt: str, run_exists: bool
) -> None:
    """A pod takes its place among all of the JobSet; a set that was restarted resumes; numbers and names agree."""
    if run_exists:
        write_status(tmp_path, "finished")
    started = start(tmp_path, [*container(jobset)["command"], script], "python", NOTE, ATTEMPT=attempt)
    assert (started.wait(10) == 0) == run_exists, "a run that has finished is the end of the pod, any other is not"
    options, pods = parsed(tmp_path, "-m", "experiments.gpt_austen"), job(jobset)["completions"]
    assert bool(options.resume) == (attempt == "1" and run_exists)
    assert options.runs == tmp_path / "runs"
    name, port = jobset["metadata"]["name"], container(jobset)["ports"][0]["containerPort"]
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    assert processes_to_start(options.group, pod) == [ProcessInfo(1, pods, f"{name}-train-0-0.{name}:{port}")]
    assert job(jobset)["parallelism"] == pods and job(jobset)["completionMode"] == "Indexed"
    assert options.experiment.mesh.fsdp == pods * container(jobset)["resources"]["limits"]["nvidia.com/gpu"]


def test_a_pod_passes_the_signal_on(jobset: dict[str, Any], script: str, tmp_path: Path) -> None:
    """SIGTERM reaches the training, which saves; the pod then fails, so that the set starts anew and resumes."""
    write_status(tmp_path, "running")
    saves = f"sed -i s/running/interrupted/ {tmp_path}/runs/gpt_austen/1/run.json; kill $!; exit 0"
    training = f"trap '{saves}' TERM; sleep 0.2; {NOTE}; sleep 30 & wait"
    started = start(tmp_path, [*container(jobset)["command"], script], "python", training, ATTEMPT="0")
    deadline = time.monotonic() + 10
    while not (tmp_path / "command").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    assert started.wait(10) == 1
    assert record(only_run(tmp_path))["status"] == "interrupted"


def test_the_scripts_are_bash(script: str) -> None:
    """`bash -n` finds no fault in either file."""
    for command in (["bash", "-n", str(FOLDER / "slurm.sh")], ["bash", "-n", "-c", script]):
        assert subprocess.run(command, capture_output=True, text=True).stderr == ""
