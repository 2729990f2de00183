"""Run directories: replaced whole, appended whole, found by name, and never misread after a crash."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.core.files import append_lines, write_atomic
from research.core.json_files import read_lines, truncate_after
from research.runs import directory
from research.runs.directory import all_runs, find, read_record, write_record

ENTRIES = [{"step": step, "text": f"été\u2028 no. {step}"} for step in range(1, 5)]


def test_a_record_reads_as_it_was_written(tmp_path):
    """Any text, any nesting; and no temporary file stays behind."""
    record = {"name": "été", "status": "running", "config": {}, "nested": {"numbers": [1, 2.5, None]}}
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_crash_while_replacing_leaves_the_old_file(tmp_path, monkeypatch):
    """The new text reaches the name only once it is on the disk."""
    write_atomic(tmp_path / "file", "old")

    def crash(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch):
    """Replacing and appending name the file and the cause, and say that the run can go on."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"run.json cannot be written \(No space left on device\).*--resume"):
        write_record(tmp_path, {})
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written"):
        append_lines(tmp_path / "missing" / "metrics.jsonl", ENTRIES)


@given(cut=st.integers(0, 200))
def test_a_last_line_cut_anywhere_is_passed_over(tmp_path_factory, cut):
    """A crash may cut the last line, even inside a character; all lines before it are read."""
    path = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    append_lines(path, ENTRIES)
    whole = path.read_bytes()
    kept = whole[: len(whole) - cut] if cut else whole
    path.write_bytes(kept)
    assert list(read_lines(path)) == ENTRIES[: kept.count(b"\n")]


def test_lines_after_a_step_are_cut_off(tmp_path):
    """A resumed run continues its files without a seam, also after a line that a crash cut."""
    path = tmp_path / "chain.jsonl"
    append_lines(path, ENTRIES)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 5, "te')
    truncate_after(path, 2)
    append_lines(path, [ENTRIES[3]])
    assert list(read_lines(path)) == [ENTRIES[0], ENTRIES[1], ENTRIES[3]]
    assert list(read_lines(tmp_path / "missing.jsonl")) == []


def test_latest_is_the_newest_run_of_all_experiments(tmp_path):
    """IDs begin with the time, whatever the experiment is called; folders without a record are no runs."""
    for run in ("zebra/20250101-000000-000-aaaa", "ant/20250102-000000-000-aaaa", "ant/20250103-000000-000-aaaa"):
        (tmp_path / run).mkdir(parents=True)
    for run in ("zebra/20250101-000000-000-aaaa", "ant/20250102-000000-000-aaaa"):
        write_record(tmp_path / run, {})
    assert [run.parent.name for run in all_runs(tmp_path)] == ["zebra", "ant"]
    assert find("latest", tmp_path) == tmp_path / "ant/20250102-000000-000-aaaa"
    assert find(str(tmp_path / "zebra/20250101-000000-000-aaaa"), tmp_path).parent.name == "zebra"


def test_a_run_that_is_not_there_is_refused_with_the_newest_ones(tmp_path):
    """The message says what to name instead."""
    with pytest.raises(UserError, match=r"There is no run under .*: train one first"):
        find("latest", tmp_path)
    with pytest.raises(UserError, match="the newest runs are: none yet"):
        find("runs/other", tmp_path)
    (tmp_path / "gpt" / "1").mkdir(parents=True)
    write_record(tmp_path / "gpt" / "1", {})
    with pytest.raises(UserError, match=r"'runs/other' is not a run directory .* the newest runs are: .*gpt/1"):
        find("runs/other", tmp_path)


def test_a_missing_or_damaged_record_is_refused(tmp_path):
    """One sentence for each, no trace."""
    with pytest.raises(UserError, match=r"has no run\.json: name a run directory"):
        read_record(tmp_path)
    (tmp_path / directory.RECORD).write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(UserError, match="not JSON"):
        read_record(tmp_path)
