"""The README is true: what it shows a newcomer to write is written to a copy of the project, and runs."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ADDITIONS = ("convolution_austen", "gpt_haiku", "focal_clouds", "brier_clouds")
RUN_ALL = """
import runpy, sys
for name in sys.argv[1:]:  # in one process, which imports JAX once
    sys.argv = [name, *"--steps 2 --schedule.warmup 1 --batch-size 4 --evaluators.0.limit 8 --sample-every 0".split()]
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
"""


def snippets() -> dict[str, str]:
    """Returns {path: code} of the README's Python blocks that begin with the path of a file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    named = (re.match(r"# (\S+\.py).*\n", block) for block in blocks)
    return {match[1]: block[match.end() :] for match, block in zip(named, blocks, strict=True) if match}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the README's files in it, and verses for its data set."""
    for package in ("research", "experiments"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.zip"))
    for path, code in snippets().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(code, encoding="utf-8")
    folder = tmp_path / "research/data/datasets/haiku"
    choose = random.Random(0).choice
    verses = [" ".join(choose(("frog", "pond", "moon", "snow", "plum", "rain")) for _ in range(17)) for _ in range(200)]
    (folder / "haiku.txt").write_text("\n\n".join(verses), encoding="utf-8")
    (folder / "__init__.py").touch()
    (folder / "README.md").write_text("Verses drawn at random.\n", encoding="utf-8")
    return tmp_path


def test_each_addition_passes_the_checks_of_the_project(project: Path):
    """It is formatted and linted, and its numbers state their ranges, so that a pull request of it is green."""
    shutil.copy(ROOT / "pyproject.toml", project)
    for check in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, *snippets()], cwd=project, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    contract = str(ROOT / "tests/contracts/test_configurations.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", contract, "-k", " or ".join(ADDITIONS)]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "no tests ran" not in done.stdout, done.stdout


def test_each_addition_takes_the_files_shown_and_no_other(project: Path):
    """One new file and one new experiment, as the README shows them, train and leave a report."""
    command = [sys.executable, "-c", RUN_ALL, *ADDITIONS]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert {run.parent.parent.name for run in project.glob("runs/*/*/report.html")} == set(ADDITIONS)
