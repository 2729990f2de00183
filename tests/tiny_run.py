"""A tiny run from the command line, for the tests of the whole system: its texts, its options, and how to start it."""

import gzip
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
NOVEL = ROOT / "research/data/datasets/austen/raw/persuasion.txt.gz"
OPTIONS = (
    *("--data.length", "16", "--batch-size", "4", "--accumulate", "2", "--steps", "40", "--schedule.warmup", "5"),
    *("--model.depth", "1", "--model.width", "32", "--model.heads", "2", "--model.context", "16"),
    *("--model.dropout", "0.1", "--optimizer.ema", "0.9"),
    *("--log-every", "1", "--evaluate-every", "20", "--evaluators.0.limit", "64", "--sample-every", "0"),
    *("--checkpoint-every", "5", "--digest-every", "10"),
)


def write_texts(folder: Path) -> list[str]:
    """Writes two texts into `folder`; returns the options that train on one and validate on the other."""
    novel = gzip.decompress(NOVEL.read_bytes()).decode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"train.txt": novel[2000:22000], "validation.txt": novel[30000:35000]}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return ["--data.train", str(folder / "train.txt"), "--data.validation", str(folder / "validation.txt")]


def options(folder: Path) -> list[str]:
    """Returns all options of the tiny run: its texts and its runs lie in `folder`."""
    return [*write_texts(folder), *OPTIONS, "--runs", str(folder / "runs")]


def run_module(module: str, *arguments: str) -> int:
    """Runs `python -m MODULE ARGUMENTS` in this process; returns the exit code."""
    with patch.object(sys, "argv", [module, *arguments]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return 0 if end.code is None else int(end.code)
    return 0


class Program(subprocess.Popen[str]):
    """`python -m ARGUMENTS` as a process of its own, killed at the end of a `with` block if it still runs."""

    def __init__(self, *arguments: str, **variables: str):
        # A file, since a pipe that nobody reads stops the program once it is full.
        descriptor, self._printed = tempfile.mkstemp()
        command, environment = [sys.executable, "-m", *arguments], {**os.environ, **variables}
        super().__init__(command, cwd=ROOT, env=environment, stdout=descriptor, stderr=subprocess.STDOUT)
        os.close(descriptor)

    def output(self) -> str:
        """Waits for the end and returns all that was printed."""
        self.wait(timeout=900)
        return self.so_far()

    def so_far(self) -> str:
        """Returns what has been printed so far."""
        return Path(self._printed).read_text(encoding="utf-8")

    def __exit__(self, *error: object) -> None:
        self.kill()
        super().__exit__(*error)
        Path(self._printed).unlink()


def only_run(folder: Path, experiment: str = "gpt_austen") -> Path:
    """Returns the one run directory under `folder/runs`."""
    (run,) = (folder / "runs" / experiment).iterdir()
    return run


def record(run: Path) -> dict[str, Any]:
    """Reads `run.json`."""
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def wait_for_step(folder: Path, step: int, started: Program, seconds: float = 300) -> None:
    """Waits until the run under `folder` has noted `step` in its chain."""
    deadline = time.monotonic() + seconds
    while steps_noted(folder) < step:
        assert started.poll() is None, f"ended before step {step}: {started.output()[-2000:]}"
        assert time.monotonic() < deadline, f"step {step} not reached in {seconds} s"
        time.sleep(0.002)


def steps_noted(folder: Path) -> int:
    """Returns the last step in the chain of the run under `folder`, 0 for none."""
    chains = list((folder / "runs").glob("*/*/chain.jsonl"))
    return chains[0].read_bytes().count(b"\n") if chains else 0


def workers(started: Program) -> list[int]:
    """Returns the processes that a supervisor has started and that still are, by their place in the run."""
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []
