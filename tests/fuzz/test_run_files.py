"""Thousands of run directories with one odd value each: every one is reported, or refused in a sentence.

A mutation keeps a file JSON, and replaces, removes or repeats one value anywhere in it, as an edit by hand, another
version or an attacker might; some cut the text instead. The seeds are fixed, so that a failure comes again.
"""

import json
import random
import resource
import shutil
import time
from pathlib import Path

import pytest
from mutate import mutated_value
from recorded_runs import language_run, picture_run

from research.compare import compare, read
from research.core import configs
from research.core.errors import UserError
from research.core.files import write_atomic
from research.report.html import write_report
from research.runs.directory import find, read_record

__all__ = ["language_run", "picture_run"]

MUTATIONS = 2000
SECONDS = 5.0  # in which one run directory is read and reported, on a busy machine
MEGABYTES = 500  # by which the memory may grow over all
FILES = ("run.json", "metrics.jsonl", "predictions.json", "attention.json")


def mutated_text(text: str, draw: random.Random) -> str:
    """Returns the text of a file with a value changed in one of its lines, or with some characters lost or repeated."""
    if draw.random() < 0.1:
        start, length = draw.randrange(len(text)), draw.choice([1, 10, 1000])
        return text[:start] + draw.choice(["", "[" * 5000, "\x00", text[start : start + 20]]) + text[start + length :]
    if not text.startswith('{"step"'):
        return json.dumps(mutated_value(json.loads(text), draw))
    lines = text.splitlines()
    number = draw.randrange(len(lines))
    lines[number] = json.dumps(mutated_value(json.loads(lines[number]), draw))
    return "\n".join(lines) + "\n"


def completed(run: Path) -> None:
    """Gives a run what each section of a report shows."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["events"] = [
        {"step": 100, "time": "2025-03-01T10:01:00Z", "kind": "skip", "message": "skipped", "count": 3, "last": 102},
        {"step": 200, "time": "2025-03-01T10:02:00Z", "kind": "rollback", "message": "back", "to": 150},
    ]
    record["resumes"] = [{"step": 150, "time": "2025-03-01T10:02:00Z"}]
    record["pretrained"] = {"loaded": 10, "new": ["head/kernel"], "left": ["x"], "sha256": "ab"}
    record["config"]["evaluators"][0]["best"] = ["loss", "min"]
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    look = {
        "source": "a b",
        "written": "c",
        "target": "c",
        "across": ["a", "b"],
        "down": ["c"],
        "weights": [[0.1, 0.9]],
    }
    (run / "attention.json").write_text(json.dumps({"split": "validation", "examples": [look]}), encoding="utf-8")


def outcome(run: Path) -> str:
    """Does what reads a run: reports it, compares it, finds it by its experiment, and rebuilds its configuration."""
    for read_it in (
        lambda: write_report(run),
        lambda: compare([read("A", run), read("B", run)]),
        lambda: find(str(run.parent), run.parents[1]),
        lambda: configs.from_json(read_record(run)["config"]),
    ):
        try:
            read_it()
        except UserError as error:
            text = str(error)
            assert text and len(text) < 2000
    return "ok"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_an_odd_run_is_reported_or_refused_in_a_sentence(
    seed: int, language_run: Path, picture_run: Path, tmp_path: Path
) -> None:
    """No trace, no hang, no growth of memory, whatever one value of a file of a run is."""
    draw = random.Random(seed)
    whole = {}
    for run in (language_run, picture_run):
        completed(run)
        metrics = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        kept = [line for number, line in enumerate(metrics) if number % 10 == 0 or '"train"' not in line]
        (run / "metrics.jsonl").write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        whole[run] = {name: (run / name).read_text(encoding="utf-8") for name in FILES if (run / name).exists()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(MUTATIONS // 4):
        run = draw.choice([language_run, picture_run])
        name = draw.choices(FILES, [6, 2, 1, 1])[0] if run is picture_run else draw.choices(FILES[:2], [3, 1])[0]
        name = name if name in whole[run] else "run.json"
        text = mutated_text(whole[run][name], draw)
        write_atomic(run / name, text)
        began = time.monotonic()
        try:
            outcome(run)
        except Exception as error:
            shutil.copytree(run, tmp_path / "failed")
            pytest.fail(f"seed {seed}, mutation {number} of {name}: {type(error).__name__}: {error}\n{run}")
        assert time.monotonic() - began < SECONDS
        write_atomic(run / name, whole[run][name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * MEGABYTES
