"""Promises of `--exact`: the same bits on 1, 2, 4 and 8 devices and in two processes, or a refusal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny_run import ROOT, Program, only_run, options, record, wait_for_step

from research.core.errors import UserError
from research.core.mesh import MeshConfig
from research.train import exact

FIFTY = ("--exact", "--steps", "50", "--schedule.warmup", "5", "--evaluate-every", "0", "--checkpoint-every", "25")
FULL_SIZE = {
    "gpt_austen": ("--model.dropout", "0.1"),
    "resnet_fashion": (),
    "mlp_adult": (),
}


def virtual(devices: int) -> str:
    """The value of XLA_FLAGS that makes so many devices of the processor; alone, with the machine code of users."""
    return f"--xla_force_host_platform_device_count={devices}"


@pytest.fixture(scope="module")
def hashes() -> dict:
    """What `exact.py` prints."""
    command = [sys.executable, str(Path(__file__).with_name("exact.py"))]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {virtual(4)}"  # plain machine code, as in most tests: half a minute
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("model", ["gpt", "low-rank"])
def test_the_state_has_the_same_bits_on_any_number_of_devices(hashes, model):
    """Dropout, augmentation, fixed parameters, clipping and moving average included."""
    assert len(hashes["exact"][model]) > 1 and len(set(hashes["exact"][model])) == 1


def test_without_it_the_bits_differ(hashes):
    """Else the test above would show nothing."""
    assert len(set(hashes["ordinary"])) == 2


@pytest.mark.slow
def test_two_processes_end_in_the_bits_of_one(tmp_path):
    """A run in two processes and one in a single process: equal chains, equal parameters."""
    small = [*options(tmp_path), "--accumulate", "1", "--batch-size", "8", "--steps", "12", "--exact"]
    for name, more in (("one", []), ("two", ["--local-processes", "2"])):
        command = ["experiments.gpt_austen", *small, *more, "--runs", str(tmp_path / name / "runs")]
        with Program(*command, JAX_NUM_CPU_DEVICES="1") as started:
            output = started.output()
        assert started.returncode == 0, output[-3000:]
    one, two = (record(only_run(tmp_path / name)) for name in ("one", "two"))
    assert one["params_sha256"] == two["params_sha256"] and one["chain"] == two["chain"]
    assert [run["environment"]["devices"]["processes"] for run in (one, two)] == [1, 2]


@pytest.mark.parametrize(
    ("sizes", "batch", "accumulate", "sentence"),
    [
        ({"data": 1}, 8, 1, "set NPROC=8"),
        ({"data": 1}, 12, 1, "--accumulate 1 --batch-size 16"),
        ({"data": 1}, 16, 2, "--accumulate 1 --batch-size 16"),
        ({"data": 3}, 24, 1, "--mesh.data 1, 2, 4 or 8"),
        ({"data": 2, "tensor": 2}, 8, 1, "every other axis 1"),
        ({"data": 2, "fsdp": 2}, 8, 1, "every other axis 1"),
    ],
)
def test_what_cannot_be_exact_is_refused(sizes, batch, accumulate, sentence, monkeypatch):
    """A mesh that splits products, parts of unequal size, another thread pool: one sentence."""
    monkeypatch.delenv("NPROC", raising=False)
    mesh = MeshConfig(**sizes).build(jax.devices()[:1] * 8)
    with pytest.raises(UserError, match=sentence):
        exact.check(mesh, batch, accumulate)


def test_a_backend_that_was_not_tested_is_refused(monkeypatch):
    """On a GPU the order of sums is the hardware's affair."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="CPUs only, and this is a gpu"):
        exact.check(MeshConfig().build(jax.devices()[:1]), 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", FULL_SIZE)
def test_fifty_steps_at_full_size_have_one_hash(experiment, tmp_path):
    """The experiments themselves, on 1, 2, 4 and 8 devices and in two processes."""
    found = {}
    for devices, processes in ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2)):
        runs = tmp_path / f"{devices}-{processes}"
        more = ["--local-processes", str(processes)] if processes > 1 else []
        command = [f"experiments.{experiment}", *FULL_SIZE[experiment], *FIFTY, *more, "--runs", str(runs / "runs")]
        with Program(*command, XLA_FLAGS=virtual(devices)) as started:
            output = started.output()
        assert started.returncode == 0, output[-3000:]
        found[devices, processes] = record(only_run(runs, experiment))["params_sha256"]
    print(experiment, found)
    assert len(set(found.values())) == 1, found


@pytest.mark.slow
def test_killed_and_resumed_on_other_devices_the_bits_are_the_same(tmp_path):
    """Killed on four devices and on one, ended on eight, with dropout: the bits of an uninterrupted run on one."""
    small = [*options(tmp_path), "--accumulate", "1", "--batch-size", "8", "--model.depth", "1", "--exact"]
    small += ["--evaluate-every", "0", "--runs"]
    with Program("experiments.gpt_austen", *small, str(tmp_path / "one/runs"), XLA_FLAGS=virtual(1)) as started:
        assert "parameters SHA-256" in started.output()
    command = ["experiments.gpt_austen", *small, str(tmp_path / "runs")]
    for devices, step in ((4, 13), (1, 27), (8, None)):
        with Program(*command, XLA_FLAGS=virtual(devices)) as started:
            if step:
                wait_for_step(tmp_path, step, started)
                started.kill()
            else:
                assert "parameters SHA-256" in started.output()
        command = [*command, "--resume"] if "--resume" not in command else command
    one, moved = record(only_run(tmp_path / "one")), record(only_run(tmp_path))
    assert len(moved["resumes"]) == 2 and min(resume["step"] for resume in moved["resumes"]) >= 10
    assert [run["environment"]["devices"]["count"] for run in (one, moved)] == [1, 8]
    assert one["params_sha256"] == moved["params_sha256"] and one["chain"] == moved["chain"]
