"""Promises of a run that moves: resumed on other devices it sees the same batches and keys, and learns the same."""

import json
import signal
from pathlib import Path

import pytest
from tiny_run import Program, only_run, options, record, wait_for_step

STEPS = 200
MESHES = (
    ["--mesh.data", "8"],
    ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"],
)


def lines(run: Path, file: str) -> list[dict]:
    return [json.loads(line) for line in (run / file).read_text(encoding="utf-8").splitlines()]


def losses(run: Path) -> list[float]:
    """The training loss of every step."""
    return [entry["loss"] for entry in lines(run, "metrics.jsonl") if entry["kind"] == "train"]


@pytest.mark.slow
def test_resumed_on_another_mesh_a_run_goes_on_as_it_would_have(tmp_path):
    """On one device, then on eight, then on a mesh of three axes: the clean run's batches, keys and losses."""
    small = [*options(tmp_path), "--model.depth", "2", "--batch-size", "8", "--accumulate", "1", "--steps", str(STEPS)]
    small += ["--checkpoint-every", "50", "--evaluate-every", "0"]
    devices = {"JAX_NUM_CPU_DEVICES": "8"}
    command = ["experiments.gpt_austen", *small, "--mesh.data", "1", "--runs"]
    with Program(*command, str(tmp_path / "clean" / "runs"), **devices) as clean:
        assert "parameters SHA-256" in clean.output()
    command = ["experiments.gpt_austen", *small, "--runs", str(tmp_path / "runs")]
    for step, mesh in zip((60, 120), (["--mesh.data", "1"], MESHES[0]), strict=True):
        with Program(*command, *mesh, **devices) as started:
            wait_for_step(tmp_path, step, started)
            started.send_signal(signal.SIGTERM)
            assert "Interrupted at step" in started.output()
        command = [*command, "--resume"] if "--resume" not in command else command
    with Program(*command, *MESHES[1], **devices) as last:
        assert "parameters SHA-256" in last.output()
    one, moved = only_run(tmp_path / "clean"), only_run(tmp_path)
    assert len(record(moved)["resumes"]) == 2
    kept = ("step", "batch", "random")
    parts = [[[entry[part] for part in kept] for entry in lines(run, "chain.jsonl")] for run in (one, moved)]
    assert parts[0] == parts[1] and len(parts[0]) == STEPS
    assert losses(moved) == pytest.approx(losses(one), rel=1e-6)
    assert losses(moved) != losses(one), "the meshes add up in other orders: equal bits would mean that nothing moved"


@pytest.mark.slow
def test_a_run_of_more_devices_is_evaluated_on_one(tmp_path):
    """Trained on four devices in parts, and exactly on two: `research.evaluate` needs none of them."""
    small = [*options(tmp_path), "--accumulate", "1", "--batch-size", "8", "--steps", "6", "--runs"]
    four = ["--mesh.data", "1", "--mesh.fsdp", "4"]
    for name, devices, more in (("parts", 4, four), ("exact", 2, ["--exact", "--mesh.data", "2"])):
        flags = {"JAX_NUM_CPU_DEVICES": str(devices)}
        with Program("experiments.gpt_austen", *small, str(tmp_path / name / "runs"), *more, **flags) as started:
            assert "parameters SHA-256" in started.output()
        with Program("research.evaluate", str(only_run(tmp_path / name))) as evaluated:
            output = evaluated.output()
        assert evaluated.returncode == 0 and "equal to what training printed" in output, output[-2000:]
