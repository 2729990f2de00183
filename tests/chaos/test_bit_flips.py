"""Promises of checkpoints whose bytes decay: every flipped bit is found, and the run continues from an older one."""

import random
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest
from tiny_run import only_run, options, record, run_module

from research.runs import checkpoints


def flip(path: Path, dice: random.Random) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def test_one_flipped_bit_is_found_in_100_of_100_trials(tiny_runs: Path) -> None:
    """One bit flipped in any file of the newest checkpoint: it is passed over with a message, for the one before."""
    folder, dice = only_run(tiny_runs) / "checkpoints", random.Random(0)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "00000013" in str(path)]
    files = [path for path in files if path.stat().st_size]  # an empty file has no bit to flip
    for trial in range(100):
        path, messages = files[trial % len(files)], []
        original = path.read_bytes()
        flip(path, dice)
        assert checkpoints.newest_good(folder, messages.append) == 10, path
        assert len(messages) == 1 and "checkpoint of step 13 is not used" in messages[0]
        path.write_bytes(original)
    assert checkpoints.newest_good(folder, messages.append) == 13


def test_a_missing_or_added_file_is_found(tiny_runs: Path, tmp_path: Path) -> None:
    """A checkpoint that lost any one of its files, or gained one, is passed over."""
    copy = tmp_path / "checkpoints"
    shutil.copytree(only_run(tiny_runs) / "checkpoints", copy)
    for path in [path for path in copy.rglob("*") if path.is_file() and "00000013" in str(path)]:
        original = path.read_bytes()
        path.unlink()
        assert checkpoints.newest_good(copy, lambda _: None) == 10, path
        path.write_bytes(original)
    (copy / "00000013" / "state" / "more").touch()
    assert checkpoints.newest_good(copy, lambda _: None) == 10


def test_a_run_falls_back_and_ends_in_the_same_bits(
    tiny_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed with its newest checkpoint damaged, a run says so, repeats from the one before, and ends the same."""
    runs = tmp_path / "runs"
    shutil.copytree(tiny_runs / "runs", runs)
    run = only_run(tmp_path)
    newest = run / "checkpoints" / "00000013"
    flip(
        max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size),
        random.Random(0),
    )
    assert run_module("experiments.gpt_austen", *options(tiny_runs), "--runs", str(runs), "--resume") == 0
    error = capsys.readouterr().err
    assert "checkpoint of step 13 is not used" in error and "has changed since it was written" in error
    assert [entry["step"] for entry in record(run)["resumes"]] == [10]
    assert any("step 13 is not used" in event["message"] for event in record(run)["events"])
    assert record(run)["params_sha256"] == record(only_run(tiny_runs / "clean"))["params_sha256"]
    assert not newest.exists(), "damaged checkpoints would count as the newest ones"


def test_without_any_good_checkpoint_a_run_begins_anew(tiny_runs: Path, tmp_path: Path) -> None:
    """With every checkpoint damaged the run starts from its first step, and ends the same."""
    runs = tmp_path / "runs"
    shutil.copytree(tiny_runs / "runs", runs)
    for manifest in (only_run(tmp_path) / "checkpoints").glob("*.json"):
        flip(manifest, random.Random(0))
    assert run_module("experiments.gpt_austen", *options(tiny_runs), "--runs", str(runs), "--resume") == 0
    finished = record(only_run(tmp_path))
    assert finished["resumes"] == [] and len(finished["events"]) == 2
    assert finished["params_sha256"] == record(only_run(tiny_runs / "clean"))["params_sha256"]


def test_damaged_checkpoints_do_not_crowd_out_good_ones(tmp_path: Path) -> None:
    """After falling back, what was damaged or cut off is gone, so that the newest ones kept are good ones."""
    saver = checkpoints.Saver(tmp_path, keep_last=3, report=pytest.fail)
    for step in (10, 20, 30):
        saver.save(step, {"weight": jnp.ones(3)}, {"score": None})
        saver.wait()
    for step in (20, 30):
        (tmp_path / f"{step:08d}/state/manifest.ocdbt").write_bytes(b"")
    (tmp_path / "00000005").mkdir()  # a removal that was cut off
    (tmp_path / "00000040.orbax-checkpoint-tmp").mkdir()  # a save that was cut off
    step = checkpoints.newest_good(tmp_path, lambda _: None)
    checkpoints.discard_remains(tmp_path, step)
    for later in (11, 12):
        saver.save(later, {"weight": jnp.ones(3)}, {"score": None})
        saver.wait()
    assert step == 10
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["00000010", "00000011", "00000012"]
