"""The list of runs: every run is a row, whatever its state; names, notes and tags cannot become part of the page."""

import fcntl
import json
import os
import re
import sys
from pathlib import Path

import pytest
from recorded_runs import language_record

from research.core import command_line
from research.core.errors import UserError
from research.core.files import append_lines
from research.report.runs_index import run_rows, write_index
from research.runs.__main__ import main
from research.runs.directory import METRICS, read_record, write_record
from research.runs.notes import change_note, change_tag

ATTACK = '"><script>alert(1)</script>'


def made(root: Path, name: str, run_id: str, **changes: object) -> Path:
    """Returns a run directory whose record has some fields changed."""
    folder = root / name / run_id
    folder.mkdir(parents=True)
    write_record(folder, {**language_record(folder, 2000), "name": "a", **changes})
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A finished run with a report, an interrupted one, one that is damaged, and one whose log is."""
    root = tmp_path / "runs"
    finished = made(root, "gpt", "20250101-000000-000-aaaa")
    (finished / "report.html").write_text("a page")
    stopped = made(root, "mlp", "20250102-000000-000-aaaa", status="interrupted", metrics={}, stages={})
    append_lines(
        stopped / METRICS,
        [{"step": 300, "kind": "train", "loss": 1.0}, {"step": 300, "kind": "evaluation", "name": "test", "loss": 1.5}],
    )
    (made(root, "mlp", "20250103-000000-000-aaaa") / "run.json").write_text('{"name": 5}')
    logless = made(root, "mlp", "20250104-000000-000-aaaa", status="running", metrics={})
    (logless / METRICS).write_text("[1]\n")
    return root


def test_every_run_is_a_row_the_newest_first(root: Path) -> None:
    """With its status, its steps and its headline; one that cannot be read says why."""
    logless, damaged, stopped, finished = run_rows(root)
    assert (finished.status, finished.steps, finished.value, finished.took) == (
        *("finished", "2,000", "1.3721"),
        "4 min 25 s",
    )
    assert finished.label == "validation loss, nats per character"
    assert (stopped.status, stopped.steps, stopped.value, stopped.took) == ("interrupted", "300 of 2,000", "1.5000", "")
    assert damaged.status == "unreadable" and "has no 'status'" in damaged.problem
    assert (logless.status, logless.steps) == ("running or killed", "0 of 2,000")
    assert "metrics.jsonl, line 1" in logless.problem


def test_the_page_links_to_each_report(root: Path) -> None:
    """By a relative address, also from a folder with an odd name; a run without a report has no link."""
    odd = made(root, 'x"#?', "20250105-000000-000-aaaa")
    (odd / "report.html").write_text("a page")
    page = write_index(root, run_rows(root)).read_text()
    assert re.findall('<a href="([^"]*)"', page) == [
        *("x%22%23%3F/20250105-000000-000-aaaa/report.html", "gpt/20250101-000000-000-aaaa/report.html"),
    ]


def test_what_people_and_files_say_is_text(root: Path) -> None:
    """A note, a tag, a status and a message of damage with markup; the page has one script, its own."""
    run = made(root, "gpt", "20250106-000000-000-aaaa", status=ATTACK)
    change_note(run, ATTACK)
    change_tag(run, ATTACK.replace("/", ""))
    damaged = json.dumps({"name": ATTACK, "status": "", "config": {}})
    (root / "mlp" / "20250103-000000-000-aaaa" / "run.json").write_text(damaged)
    page = write_index(root, run_rows(root)).read_text()
    assert page.count("<script") == 1 and page.count("alert(1)") == 5  # its status is a class too


def test_notes_and_tags_stay_with_the_run(root: Path) -> None:
    """They are added to the record in order, and taken away again; nothing else in it changes."""
    run = root / "gpt" / "20250101-000000-000-aaaa"
    before = read_record(run)
    for note in ("first idea", "it was wrong"):
        change_note(run, note)
    for tag in ("paper", "table 2", "paper"):
        change_tag(run, tag)
    (row,) = run_rows(root, tag="paper")
    assert (row.notes, row.tags) == (("first idea", "it was wrong"), ("table 2", "paper"))
    change_note(run, "first idea", remove=True)
    change_tag(run, "table 2", remove=True)
    after = read_record(run)
    assert [note["text"] for note in after.pop("notes")] == ["it was wrong"]
    assert after.pop("tags") == ["paper"] and after == before


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (change_note, (" ",), "A note has 1 to 10,000 characters"),
        (change_note, ("x" * 10_001,), "A note has 1 to 10,000 characters"),
        (change_note, ("never written",), "has no note 'never written'"),
        (change_tag, ("a/b",), "is no tag"),
        (change_tag, ("a\x1bb",), "is no tag"),
        (change_tag, ("absent",), "has no tag 'absent': it has none"),
    ],
)
def test_what_is_no_note_or_tag_is_refused(root: Path, change, arguments, message: str) -> None:
    """And the record stays as it was."""
    run = root / "gpt" / "20250101-000000-000-aaaa"
    before = (run / "run.json").read_bytes()
    with pytest.raises(UserError, match=message):
        change(run, *arguments, remove=arguments[0] in ("never written", "absent"))
    assert (run / "run.json").read_bytes() == before


def test_a_run_in_training_takes_no_note(root: Path) -> None:
    """Its trainer would write over it."""
    run = root / "gpt" / "20250101-000000-000-aaaa"
    lock = os.open(run / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(UserError, match="is being trained by another process"):
            change_note(run, "now")
    finally:
        os.close(lock)


def test_the_command_lists_and_annotates(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`note` and `tag` name a run; without them a folder is listed, and its page written."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["research.runs", *arguments])
        command_line.run(main)
        return capsys.readouterr().out

    gpt = str(root / "gpt")
    assert run("note", gpt, "kept for the paper") == f"note added to {root}/gpt/20250101-000000-000-aaaa\n"
    assert "tag added to" in run("tag", gpt, "paper") and "tag removed from" in run("tag", gpt, "paper", "--remove")
    listed = run(str(root)).replace("\n", "")
    assert "20250104-000000-000-aaaa" in listed and "unreadable" in listed and "1.3721" in listed
    assert (root / "index.html").is_file()
    with pytest.raises(SystemExit) as ended:
        run(str(root), "--tag", "paper")
    assert ended.value.code == 2 and "no run with the tag 'paper'" in capsys.readouterr().err
