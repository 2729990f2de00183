"""Promises to a user who makes a mistake: one clear sentence, exit code 2, no trace, and nothing lost."""

import dataclasses
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import Program, only_run, options, record, run_module, write_texts

from research.core.configs import from_json
from research.runs import checkpoints
from research.train.experiment import assemble

Refusal = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """A function that runs a command which must be refused, and returns the one sentence it was refused with."""

    def refused(module: str, *arguments: str) -> str:
        assert run_module(module, *arguments) == 2
        *_, message = capsys.readouterr().err.strip().split("\n")
        assert message.startswith("error: ") and message.endswith((".", "?")), message
        return message

    return refused


@pytest.fixture
def runs(tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run's `runs` that a test may damage."""
    return shutil.copytree(tiny_runs / "runs", tmp_path / "runs")


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Lets no file of this process grow past `free` bytes, which fails as a full disk does, but needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [(["--model.dept", "3"], "--model.depth"), (["--steps", "many"], "many"), (["--model.norm", "none"], "rms")],
)
def test_an_unknown_or_ill_typed_option_names_the_right_one(
    wrong: list[str], nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown option is answered with the nearest name, an ill-typed one with what it takes; nothing is run."""
    assert run_module("experiments.gpt_austen", *wrong) == 2
    captured = capsys.readouterr()
    assert nearest in captured.out + captured.err and "Traceback" not in captured.err


def test_a_mistake_in_a_real_process_is_one_line(tmp_path: Path) -> None:
    """As a program: exit code 2, and after what it was doing nothing is printed but the sentence."""
    with Program("experiments.gpt_austen", "--data.train", str(tmp_path / "none.txt"), "--runs", str(tmp_path)) as run:
        output = run.output()
    assert run.returncode == 2
    doing, said, end = output.split("\n")
    assert doing == "gpt_austen: preparing the data" and not end
    assert said.startswith("error: ") and "none.txt matches no file" in said


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"  \n\n", "is empty"),
        (b"Na\xefve, in Latin-1", "is not UTF-8 (byte 0xef at offset 2, line 1)"),
        (b"\x7fELF\x00\x01\x02", "is binary"),
        (b"one short line", "got none of the"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(tmp_path: Path, refusal: Refusal, content: bytes, problem: str) -> None:
    """An empty, foreign, binary or too short file: which, what is wrong with it, and where."""
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    message = refusal("experiments.gpt_austen", "--data.train", str(path), "--runs", str(tmp_path))
    assert problem in message and (str(path) in message or "groups" in message)


def test_a_table_with_a_ragged_row_names_its_line(tmp_path: Path, refusal: Refusal) -> None:
    """A row with too many values: file, line, and both counts, for tables of text and of numbers."""
    path = tmp_path / "table.csv"
    path.write_text("text,label\nfine,1\nragged,2,3\n", encoding="utf-8")
    for experiment in ("gpt_austen", "mlp_adult"):
        option = ["--data.train", str(path), "--runs", str(tmp_path)]
        message = refusal(f"experiments.{experiment}", *option)
        assert f"{path}, line 3: found 3 values where the header has 2" in message


def test_a_missing_table_is_named(tmp_path: Path, refusal: Refusal) -> None:
    """A table that is not there."""
    message = refusal("experiments.mlp_adult", "--data.train", str(tmp_path / "no.csv"), "--runs", str(tmp_path))
    assert "no.csv matches no file" in message


def test_a_corrupt_image_is_named(tmp_path: Path, refusal: Refusal) -> None:
    """A picture that ends too early: its path, and what to do."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for name in ("cats", "dogs"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / name / "1.png")
    path = tmp_path / "pictures/dogs/1.png"
    path.write_bytes(path.read_bytes()[:500])
    folder = ["--data.folder", str(tmp_path / "pictures"), "--runs", str(tmp_path)]
    message = refusal("experiments.resnet_fashion", *folder)
    assert f"{path} cannot be decoded as an image" in message and "replace or remove it" in message


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("--data.length 50000 --model.context 50000", "tokens, too few for one row of 50000"),
        ("--data.length 32 --model.context 16", "rows of 32 tokens are longer than the model's context of 16"),
        ("--model.depth 1000000000", "--model.depth is 1000000000: give a number from 1 to 1000."),
        ("--model.width 1048576 --model.heads 8", "GB of each device, which has"),
        ("--model.dropout nan", "--model.dropout is nan"),
        ("--optimizer.b1 2", "--optimizer.b1 is 2.0: give a number from 0 to below 1."),
        ("--optimizer.lr-multipliers [z-a] 1", "--optimizer.lr-multipliers has '[z-a]': as a pattern it is no regular"),
        ("--seed 1180591620717411303424", "--seed is 1180591620717411303424: give a number from 0 to 4294967295."),
        ("--model.width 33", "width 33 is not divisible by 2 heads"),
        ("--batch-size 5", "batch of 5 is not divisible by"),
        ("--batch-size 0", "--batch-size is 0: give a number from 1"),
        ("--accumulate 0", "--accumulate is 0: give a number from 1"),
        ("--mesh.fsdp 3", "does not fit"),
        ("--steps 0", "--steps is 0: give a number from 1"),
        ("--schedule.warmup 40", "warm-up of 40 steps leaves nothing of 40 steps"),
        ("--evaluators.0.split test", "no split 'test'"),
        (
            "--evaluators.0.best bleu max",
            "cannot be chosen by 'bleu', which LanguageEvaluator does not measure: give one",
        ),
        ("--loggers wandb", "not installed: pip install -e '.[wandb]'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, refusal: Refusal, wrong: str, problem: str) -> None:
    """Rows longer than the data or the context, widths, batches and schedules that do not divide: what and how many."""
    assert problem in refusal("experiments.gpt_austen", *options(tmp_path), *wrong.split())


def test_a_batch_that_eight_devices_cannot_share_is_refused(tmp_path: Path) -> None:
    """On eight devices a batch of 12 is refused with the nearest size that works."""
    devices = {"JAX_NUM_CPU_DEVICES": "8"}
    wrong = ["--batch-size", "12", "--accumulate", "1"]
    with Program("experiments.gpt_austen", *options(tmp_path), *wrong, **devices) as run:
        output = run.output()
    assert run.returncode == 2
    assert "batch of 12 is not divisible by 8 data-parallel devices" in output and "--batch-size 16" in output


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    """Run directories below a file, or on a disk without room for a record: the place, and --runs."""
    file = tmp_path / "file"
    file.touch()
    tiny = options(tmp_path)
    message = refusal("experiments.gpt_austen", *tiny, "--runs", str(file / "runs"))
    assert f"{file / 'runs'}" in message and "Not a directory" in message and "--runs DIR" in message
    with full_disk(100):
        message = refusal("experiments.gpt_austen", *tiny)
    assert "cannot be written (File too large)" in message


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path, tiny_runs: Path, refusal: Refusal) -> None:
    """No room for a checkpoint: the run says so and is not called finished; with room, --resume ends in equal bits."""
    tiny = [*options(tiny_runs), "--runs", str(tmp_path / "runs")]
    with full_disk(60_000):
        message = refusal("experiments.gpt_austen", *tiny)
    run = only_run(tmp_path)
    assert "last checkpoint, of step 40, could not be written" in message and "--resume" in message
    assert record(run)["status"] == "failed"
    assert run_module("experiments.gpt_austen", *tiny, "--resume") == 0
    assert record(run)["params_sha256"] == record(only_run(tiny_runs / "clean"))["params_sha256"]


def test_a_disk_with_no_room_for_a_line_stops_the_run(tiny_runs: Path, runs: Path, refusal: Refusal) -> None:
    """No room even for the metrics: one sentence that asks for space; with room, --resume ends in equal bits."""
    run = only_run(runs.parent)
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as metrics:  # the one file near the limit
        metrics.write(json.dumps({"step": 1, "kind": "padding", "text": "." * 400_000}) + "\n")
    again = [*options(tiny_runs), "--runs", str(runs), "--resume"]
    with full_disk((run / "metrics.jsonl").stat().st_size + 1000):
        message = refusal("experiments.gpt_austen", *again)
    assert "File too large" in message and "free space" in message and "--resume" in message
    assert run_module("experiments.gpt_austen", *again) == 0
    assert record(run)["params_sha256"] == record(only_run(tiny_runs / "clean"))["params_sha256"]


def test_a_disk_with_no_room_for_the_report_is_said(tiny_runs: Path, tmp_path: Path, refusal: Refusal) -> None:
    """A full disk under any stage, not only under training."""
    run = shutil.copytree(only_run(tiny_runs / "clean"), tmp_path / "run")
    with full_disk(20_000):
        message = refusal("research.report", str(run))
    assert "File too large" in message and "free space" in message


def test_resuming_with_a_changed_configuration_says_which_fields(tiny_runs: Path, runs: Path, refusal: Refusal) -> None:
    """Each field that differs, with both values; fields that only watch the run may differ."""
    before = (only_run(runs.parent) / "run.json").read_bytes()
    again = [*options(tiny_runs), "--runs", str(runs), "--resume"]
    message = refusal("experiments.gpt_austen", *again, "--model.width", "64", "--seed", "3", "--log-every", "2")
    assert "model.width was 32 and is now 64; seed was 0 and is now 3." in message and "log_every" not in message
    assert (only_run(runs.parent) / "run.json").read_bytes() == before


def test_a_refused_start_does_not_hide_the_run_to_resume(
    tiny_runs: Path, runs: Path, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later command that was refused before its first step is not what --resume continues."""
    run = only_run(runs.parent)
    again = [*options(tiny_runs), "--runs", str(runs)]
    refusal("experiments.gpt_austen", *again, "--model.width", "33")
    assert run_module("experiments.gpt_austen", *again, "--resume") == 0
    assert record(run)["status"] == "finished"
    assert "no unfinished run of gpt_austen" in refusal("experiments.gpt_austen", *again, "--resume")


def test_nothing_to_resume_is_said(tmp_path: Path, refusal: Refusal) -> None:
    """--resume without any run."""
    message = refusal("experiments.gpt_austen", *options(tmp_path), "--resume")
    assert f"no unfinished run of gpt_austen under {tmp_path / 'runs'}/" in message


@pytest.mark.parametrize("stage", ["evaluate", "reproduce", "report"])
def test_a_run_that_is_none_is_refused(
    tmp_path: Path, refusal: Refusal, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUN that is no run directory, or `latest` where there is none."""
    monkeypatch.chdir(tmp_path)
    assert f"'{tmp_path}' is not a run directory" in refusal(f"research.{stage}", str(tmp_path))
    assert "There is no run under runs/" in refusal(f"research.{stage}", "latest")


@pytest.mark.parametrize("damage", ['{"name": "gpt_au', "[]", '{"name": "gpt_austen", "status": "failed"}', "\x00"])
@pytest.mark.parametrize("stage", ["evaluate", "reproduce", "report"])
def test_a_damaged_record_is_refused(tmp_path: Path, refusal: Refusal, stage: str, damage: str) -> None:
    """A run.json cut short, or with parts missing: its path, and what to do."""
    (tmp_path / "run.json").write_text(damage, encoding="utf-8")
    message = refusal(f"research.{stage}", str(tmp_path))
    assert str(tmp_path / "run.json") in message and "restore it" in message


def test_a_damaged_record_does_not_resume(tiny_runs: Path, runs: Path, refusal: Refusal) -> None:
    """--resume with the newest run's record cut short."""
    path = only_run(runs.parent) / "run.json"
    path.write_text(path.read_text(encoding="utf-8")[:1000], encoding="utf-8")
    message = refusal("experiments.gpt_austen", *options(tiny_runs), "--runs", str(runs), "--resume")
    assert str(path) in message and "restore it" in message


@pytest.mark.parametrize("kind", ["flipped byte", "missing file"])
def test_damaged_checkpoints_are_named(
    runs: Path, refusal: Refusal, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every checkpoint damaged, evaluation is refused; each one is named, with the file and its damage."""
    run = only_run(runs.parent)
    for folder in [path for path in (run / "checkpoints").iterdir() if path.is_dir()]:
        path = folder / "state/manifest.ocdbt"
        if kind == "missing file":
            path.unlink()
        else:
            path.write_bytes(b"\xff" + path.read_bytes()[1:])
    assert run_module("research.evaluate", str(run)) == 2
    first, second, last = capsys.readouterr().err.strip().split("\n")[-3:]
    damage = "is missing" if kind == "missing file" else "has changed since it was written"
    assert f"step 13 is not used: its file state/manifest.ocdbt {damage}" in first
    assert "step 10 is not used" in second
    assert last.startswith(f"error: {run} has no good checkpoint")


def test_a_checkpoint_of_another_model_is_refused(tiny_runs: Path, runs: Path, refusal: Refusal) -> None:
    """A checkpoint of a wider model: the first parameter that differs, with both shapes."""
    run = only_run(runs.parent)
    config = from_json(record(run)["config"])
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, width=48))
    saver = checkpoints.Saver(run / "checkpoints", keep_last=1, report=print)
    saver.save(14, assemble(wider, wider.data.build()).initial_state().changing, {"score": None})
    saver.wait()
    again = [*options(tiny_runs), "--runs", str(runs), "--resume"]
    for message in (refusal("experiments.gpt_austen", *again), refusal("research.evaluate", str(run))):
        assert "is of another model: 'params/block_0/attention/" in message
        assert "[48" in message and "[32" in message


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path, refusal: Refusal) -> None:
    """A learning rate far too high: the step, what to lower, and a good checkpoint from before it."""
    diverging = ["--optimizer.kind", "gradient_descent", "--optimizer.learning-rate", "3", "--checkpoint-every", "2"]
    message = refusal("experiments.article_regression", *diverging, "--runs", str(tmp_path / "runs"))
    run = only_run(tmp_path, "article_regression")
    assert "from step " in message and "--optimizer.learning-rate" in message and str(run / "checkpoints") in message
    step = int(message.partition("from step ")[2].partition(" ")[0])
    assert checkpoints.newest_good(run / "checkpoints", lambda _: None) >= step
    assert record(run)["status"] == "failed" and f"from step {step}" in record(run)["error"]


def test_texts_may_not_be_validated_without_training_ones(tmp_path: Path, refusal: Refusal) -> None:
    """Validation files alone."""
    message = refusal("experiments.gpt_austen", *write_texts(tmp_path)[2:], "--runs", str(tmp_path))
    assert "give --data.train as well" in message
