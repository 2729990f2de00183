"""What a run says is checked before it is believed: one sentence names the file and the field; nothing hangs."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from recorded_runs import language_record

from research.core.errors import UserError
from research.runs import schema
from research.runs.checkpoints import newest_good
from research.runs.directory import all_runs, find, read_chain, read_metrics, read_record, write_record
from research.runs.record import RunLog, open_new


def written(folder: Path, **changes: object) -> Path:
    """Returns a run directory whose record has some fields changed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, {**language_record(folder, 100), **changes})
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", 5), ("name", "../.."), ("name", "/etc"), ("name", ".."), ("name", "a\x1bb"), ("name", "")),
        *(("status", 7), ("config", None), ("config", {"evaluators": 5}), ("config", {"model": {"type": 5}})),
        *(("config", {"steps": "many"}), ("stages", {"train": "long"}), ("stages", {"train": -1.0})),
        *(("data", None), ("data", {"cleaning": [{"name": "x"}]}), ("data", {"tokenizer": {"vocabulary": "5"}})),
        *(
            ("metrics", 5),
            ("metrics", {"test": {"confusion_matrix": [[1, 2]]}}),
            ("metrics", {"test": {"loss": 2**63}}),
        ),
        *(("events", [{"step": "1", "message": ""}]), ("events", [{"step": 1}]), ("resumes", {"step": 1})),
        *(("git", "main"), ("git", {"commit": "ab"}), ("environment", {"thread_pool": "2"}), ("environment", [])),
        *(("model", {"layers": [{"path": "a"}]}), ("pretrained", {}), ("baselines", {"test": {"x": 5}})),
    ],
)
def test_a_field_of_another_kind_is_named(field: str, value: object, tmp_path: Path) -> None:
    """Any type, range or missing part that a stage relies on; a sentence, and short however long the value is."""
    run = written(tmp_path / "run", **{field: value})
    with pytest.raises(UserError, match=rf"run\.json is damaged: .*{field}") as refused:
        read_record(run)
    assert len(str(refused.value)) < 500


def test_what_a_record_need_not_have_may_be_missing(tmp_path: Path) -> None:
    """A name, a status and a configuration are enough, as a run that failed at once has no more."""
    write_record(tmp_path, {"name": "a", "status": "failed", "config": {}})
    assert read_record(tmp_path)["status"] == "failed"


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless", "loop", "unreadable"])
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "chain.jsonl"])
def test_what_is_no_file_is_refused_at_once(kind: str, name: str, tmp_path: Path) -> None:
    """A pipe that nobody writes, a folder, a link to a device or to itself: nothing waits, and nothing fills memory."""
    run = written(tmp_path / "run")
    path = run / name
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "endless":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(name)
        case "unreadable":
            path.write_bytes(b"\xff\xfe\n")
    read = {"run.json": read_record, "metrics.jsonl": read_metrics, "chain.jsonl": read_chain}[name]
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read(run)


@pytest.mark.parametrize(
    "line",
    [
        *("[1]", "{{{", "5", "[" * 5000, '{"step": 1}', '{"step": "1", "kind": "train"}'),
        *('{"step": 1, "kind": "sample"}', '{"step": 1, "kind": "evaluation"}'),
        '{"step": 1, "kind": "train", "loss": 1' + "0" * 400 + "}",
    ],
)
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    """By its number, in a file of thousands."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "compiled", "seconds": 1.0}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("manifest", [[1], {"step": 4}, {"files": [1]}, {"files": {}, "score": "low"}, "x", None])
def test_a_checkpoint_whose_facts_are_odd_is_passed_over(manifest: object, tmp_path: Path) -> None:
    """Also where the digest of the facts is right, as a forger writes it; other names are no checkpoints."""
    for name in ("00000004", "0²", "4x"):
        (tmp_path / name).mkdir()
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    (tmp_path / "00000004.json").write_text(f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n")
    said: list[str] = []
    assert newest_good(tmp_path, said.append) is None
    assert len(said) == 1 and "missing or damaged" in said[0]


def test_latest_is_no_run_of_the_future_and_no_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A clock that was wrong once does not hide every later run; what is passed over is said."""
    future, now = "20991231-000000-000-ffff", "20250102-000000-000-aaaa"
    for run_id in (now, future, "20250101-000000-000-aaaa"):
        written(tmp_path / "gpt" / run_id)
    assert [run.name for run in all_runs(tmp_path)] == [future, "20250101-000000-000-aaaa", now]
    assert find("latest", tmp_path).name == now
    assert f"latest is {tmp_path / 'gpt' / now}" in capsys.readouterr().err
    (tmp_path / "gpt" / now / "run.json").write_text("{")
    assert find(str(tmp_path / "gpt"), tmp_path).name == "20250101-000000-000-aaaa"
    assert "is passed over" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "a/b", "..", ""])
def test_no_run_is_written_outside_its_folder(name: str, tmp_path: Path) -> None:
    """Whatever a record, or a notebook, calls it."""
    with pytest.raises(UserError, match="plain name"):
        open_new(name, object(), tmp_path / "runs", "id", {})
    assert not list(tmp_path.iterdir())


def test_a_sudden_end_is_noted(tmp_path: Path) -> None:
    """A signal before the first step, in the middle of a compilation, leaves no run that says it is running."""
    for status, noted in (("running", "interrupted"), ("finished", "finished")):
        log = RunLog(tmp_path, {**language_record(tmp_path, 1), "status": status}, lock=0)
        log.note_sudden_end()
        assert log.record["status"] == noted
    assert read_record(tmp_path)["status"] == "interrupted"


def test_a_name_that_is_not_utf8_comes_back(tmp_path: Path) -> None:
    """The system hands such names over with halves of surrogate pairs, which a file cannot hold as they are."""
    run = written(tmp_path / "run", command="python -m x --data.train caf\udce9.txt")
    assert read_record(run)["command"].encode(errors="surrogateescape").endswith(b"caf\xe9.txt")


def test_the_form_of_results_fits_their_tables() -> None:
    """Lists by class are as long as the confusion matrix, which is square and counts."""
    sound = {"loss": float("inf"), "f1_per_class": [0.5, None], "confusion_matrix": [[1, 0], [2, 3]], "note": "x"}
    schema.check(sound, schema.results, "here")
    for odd in ({"f1_per_class": [0.5]}, {"confusion_matrix": [[1, 0], [2, -3]]}, {"f1_per_class": ["a", 1]}):
        with pytest.raises(UserError, match="here is damaged"):
            schema.check({**sound, **odd}, schema.results, "here")
