"""Promises of a run whose disk fills up, a real one: it trains on, loses nothing good, and saves again."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import Program, only_run, record, steps_noted, wait_for_step

from research.core.json_files import read_lines
from research.runs import checkpoints
from research.runs.directory import CHAIN, METRICS

OPTIONS = ("experiments.article_softmax", "--log-every", "1", "--evaluate-every", "0", "--steps", "6000")
ENDS = ("params_sha256", "chain")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leaves `free` bytes of a disk free; returns the file that does."""
    with open(disk / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free)
    return disk / "filler"


def failed_saves(run: Program) -> list[str]:
    """Returns the lines a run has printed about saves that failed."""
    return [line for line in run.so_far().splitlines() if "checkpoint" in line and "training goes on" in line]


@pytest.mark.slow
@pytest.mark.parametrize("several", [(), ("--local-processes", "2")])
def test_a_full_disk_costs_no_good_checkpoint_and_none_after(small_disk: Path, tmp_path: Path, several) -> None:
    """Filled over two saves and freed: each failure is one line, the next save is good, and a resumed run is exact."""
    command = [*OPTIONS, "--checkpoint-every", "100", *several, "--runs", str(small_disk / "runs")]
    with Program(*command) as run:
        wait_for_step(small_disk, 250, run)
        filler = fill(small_disk, 2**15)  # lines still fit, for some steps
        deadline = time.monotonic() + 120
        while len(failed_saves(run)) < 2:
            assert run.poll() is None and time.monotonic() < deadline, run.so_far()[-3000:]
            time.sleep(0.05)
        good = only_run(small_disk, "article_softmax") / "checkpoints"
        kept = checkpoints.newest_good(good, pytest.fail)
        assert kept is not None and shutil.disk_usage(small_disk).free < 2**16
        filler.unlink()
        deadline = time.monotonic() + 120
        while (newest := checkpoints.newest_good(good, lambda _: None) or 0) < kept + 300:
            assert time.monotonic() < deadline, run.so_far()[-3000:]
            time.sleep(0.05)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        assert len(set(failed_saves(run))) == len(failed_saves(run)), "one line a failure"
    noted = steps_noted(small_disk)
    assert noted >= newest
    folder = only_run(small_disk, "article_softmax")
    for file in (CHAIN, METRICS):
        steps = [entry["step"] for entry in read_lines(folder / file) if entry.get("kind", "train") == "train"]
        assert steps == list(range(1, steps[-1] + 1)), f"{file} has lost lines, or has some twice"
    other = shutil.copytree(small_disk / "runs", tmp_path / "runs")
    with Program(*command[:-1], str(other), "--resume") as resumed:
        output = resumed.output()
    assert resumed.returncode == 0, output
    devices = "2" if several else "1"
    with Program(*OPTIONS, "--runs", str(tmp_path / "clean/runs"), JAX_NUM_CPU_DEVICES=devices) as clean:
        assert clean.output() and clean.returncode == 0
    uninterrupted, end = (record(only_run(root, "article_softmax")) for root in (tmp_path / "clean", tmp_path))
    assert [end[name] for name in ENDS] == [uninterrupted[name] for name in ENDS]
    assert end["resumes"][0]["step"] >= newest
