"""Whole runs: stopped and resumed at any step they end in the same bits, and every period and number is kept."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from research.core import trees
from research.core.errors import UserError
from research.core.json_files import read_lines
from research.runs import checkpoints
from research.runs.chain import PARTS
from research.runs.directory import CHAIN, METRICS, read_record, write_record
from research.runs.loggers import scalars
from research.runs.resumable import open_resumable
from research.train.recorded_run import load_run
from research.train.run import train


def lines(run, file=METRICS):
    return list(read_lines(run.folder / file))


def comparable(run):
    """The log entries without what a clock says."""
    clock = ("rate", "seconds_left", "seconds")
    kept = [entry for entry in lines(run) if entry["kind"] != "compiled"]
    return [{name: value for name, value in entry.items() if name not in clock} for entry in kept]


@pytest.fixture(scope="module")
def finished(tiny_line_run, tmp_path_factory):
    """The tiny line, trained without interruption; shared, so do not change it."""
    return train(tiny_line_run, name="tiny", root=tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def finished_text(tiny_language_run, tmp_path_factory):
    """The tiny GPT, likewise."""
    return train(tiny_language_run, name="tiny", root=tmp_path_factory.mktemp("finished"))


def assert_resumes_exactly(experiment, whole, root, stops):
    """Trains with a stop after each of `stops`; the end must be that of the uninterrupted run `whole`."""
    for place, stop in enumerate(stops):
        run = train(experiment, name="tiny", root=root, resume=place > 0, stop_after=stop)
        assert run.record["status"] == "interrupted"
        assert run.state.step == stop
    run = train(experiment, name="tiny", root=root, resume=True)
    assert run.record["params_sha256"] == whole.record["params_sha256"]
    assert lines(run, CHAIN) == lines(whole, CHAIN)
    assert trees.digest(run.state) == trees.digest(whole.state)
    assert comparable(run) == comparable(whole)
    assert run.record["metrics"] == whole.record["metrics"]
    assert [resume["step"] for resume in run.record["resumes"]] == list(stops)


def test_stopped_anywhere_a_run_ends_the_same(finished, tiny_line_run, tmp_path):
    """On and off the periods of checkpoints, digests and log entries; twice in a row."""
    assert_resumes_exactly(tiny_line_run, finished, tmp_path, stops=(1, 3, 7))


def test_what_a_killed_run_wrote_after_its_checkpoint_is_not_kept_twice(finished, tiny_line_run, tmp_path):
    """Resumed from an older step, metrics and chain are cut back to it and continue without a seam."""
    run = train(tiny_line_run, name="tiny", root=tmp_path, stop_after=7)
    (run.folder / "checkpoints" / "00000007.json").unlink()  # as if killed while step 7 was being saved
    run = train(tiny_line_run, name="tiny", root=tmp_path, resume=True)
    assert [resume["step"] for resume in run.record["resumes"]] == [6]
    assert "checkpoint of step 7 is not used" in run.record["events"][0]["message"]
    assert lines(run, CHAIN) == lines(finished, CHAIN)
    assert comparable(run) == comparable(finished)


VARIANTS = {
    "average": lambda e: dataclasses.replace(e, optimizer=dataclasses.replace(e.optimizer, ema=0.9)),
    "dropout, cut batches": lambda e: dataclasses.replace(
        e, model=dataclasses.replace(e.model, dropout=0.3), accumulate=2, compute="bfloat16"
    ),
    "muon, packed, scanned": lambda e: dataclasses.replace(
        e,
        optimizer=dataclasses.replace(e.optimizer, kind="muon"),
        model=dataclasses.replace(e.model, positions="rotary", scan=True, remat=True),
        data=dataclasses.replace(e.data, packing="documents"),
    ),
}


@pytest.mark.parametrize(
    "variant",
    [
        "dropout, cut batches",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("average", "muon, packed, scanned")),
    ],
)
def test_every_part_of_the_state_is_resumed(variant, tiny_line_run, tiny_language_run, tmp_path):
    """Moving averages, dropout's randomness, micro-batches, partitioned optimizers and packed rows continue exactly."""
    experiment = VARIANTS[variant](tiny_language_run if "packed" in variant else tiny_line_run)
    whole = train(experiment, name="tiny", root=tmp_path / "whole")
    assert_resumes_exactly(experiment, whole, tmp_path / "parts", stops=(5,))


def test_a_run_that_cuts_its_batch_says_that_statistics_are_those_of_a_part(tiny_image_run, tmp_path):
    """Once, among the events of the record; a run that does not cut says nothing."""
    cut = train(dataclasses.replace(tiny_image_run, accumulate=2, steps=1), name="cut", root=tmp_path)
    whole = train(dataclasses.replace(tiny_image_run, steps=1), name="whole", root=tmp_path)
    assert [event["kind"] for event in cut.record["events"]] == ["statistics"]
    assert not whole.record["events"]


def test_running_statistics_are_resumed(tiny_image_run, tmp_path):
    """Batch normalisation's running averages are parameters, so a ResNet continues exactly as well."""
    whole = train(tiny_image_run, name="tiny", root=tmp_path / "whole")
    means = {path: leaf for path, leaf in trees.flatten(whole.state.variables).items() if path.endswith("mean")}
    assert all(np.any(leaf != 0) for leaf in means.values())
    assert_resumes_exactly(tiny_image_run, whole, tmp_path / "parts", stops=(4,))


def test_two_runs_of_one_seed_have_equal_chains_and_another_seed_another(finished, tiny_line_run, tmp_path):
    """The chain's entries cover batch, randomness, result and, where digested, parameters."""
    again = train(tiny_line_run, name="tiny", root=tmp_path)
    assert lines(again, CHAIN) == lines(finished, CHAIN)
    other = train(dataclasses.replace(tiny_line_run, seed=1), name="tiny", root=tmp_path, stop_after=2)
    first, right = lines(other, CHAIN)[0], lines(finished, CHAIN)[0]
    assert all(first[part] != right[part] for part in PARTS if part in right)
    assert other.record["id"] != again.record["id"]


def test_everything_happens_on_its_period_and_at_the_end(finished_text):
    """8 steps: log every 2, evaluate and sample every 4, digest every 4; chain entries for all."""
    steps = {
        kind: [entry["step"] for entry in lines(finished_text) if entry["kind"] == kind] for kind in ("train", "sample")
    }
    assert steps == {"train": [2, 4, 6, 8], "sample": [4, 8]}
    assert [entry["step"] for entry in lines(finished_text) if entry["kind"] == "evaluation"] == [4, 8]
    chain = lines(finished_text, CHAIN)
    assert [entry["step"] for entry in chain] == list(range(1, 9))
    assert [entry["step"] for entry in chain if "params" in entry] == [4, 8]
    assert chain[-1]["params"] == finished_text.record["params_sha256"] == trees.digest(finished_text.state.merged)
    assert chain[-1]["chain"] == finished_text.record["chain"]


def test_checkpoints_come_on_their_period_and_at_the_end(finished):
    """Every 3 and at 8, of which the newest two stay; the best is the only one with a score."""
    folder = finished.folder / "checkpoints"
    assert sorted(int(path.name) for path in folder.iterdir() if path.is_dir()) == [6, 8]
    assert checkpoints.best(folder) == 8


def test_training_entries_say_what_a_step_did(finished_text):
    """Loss, gradient norm, weight, accuracy, the rate that the step used, and the speed with its unit."""
    first = next(entry for entry in lines(finished_text) if entry["kind"] == "train")
    assert {"loss", "gradient_norm", "accuracy", "seconds_left"} <= set(first)
    assert (first["weight"], first["unit"]) == (64, "tokens")
    np.testing.assert_allclose(first["learning_rate"], 1e-2 * 2 / 3, rtol=1e-6)  # the second of two warm-up steps
    assert "random" not in scalars(first)


def test_the_record_has_what_a_reader_needs(finished_text):
    """Config, data, model, environment, stages, metrics beside baselines: JSON on disk as in memory."""
    record = read_record(finished_text.folder)
    assert record == json.loads(json.dumps(finished_text.record))
    assert record["status"] == "finished"
    assert {"data", "assembly", "first_step", "train", "baselines"} <= set(record["stages"])
    assert set(record["metrics"]["validation"]) == set(record["baselines"]["validation"]["3-gram"]) | {"accuracy"}
    leaves = jax.tree.leaves(finished_text.state.params)
    assert record["model"]["parameters"] == sum(leaf.size for leaf in leaves)
    assert sum(row["parameters"] for row in record["model"]["layers"]) == record["model"]["parameters"]


def test_a_loaded_run_measures_what_training_printed(finished):
    """The state of the newest checkpoint, evaluated alone, gives the very numbers of the last evaluation."""
    run = load_run(finished.folder)
    assert trees.digest(run.state.merged) == trees.digest(finished.state.merged)
    task, data, mesh = run.assembly.task, run.assembly.data, run.assembly.mesh
    evaluator = run.assembly.evaluators[0].build(task, data, mesh, seed=0)
    assert evaluator.measure(run.state.evaluated) == finished.record["metrics"]["validation"]
    assert load_run(finished.folder, best=True).state.step == 8


def test_a_logger_of_ones_own_sees_every_entry(tiny_line_run, tmp_path):
    """A notebook plots what `metrics.jsonl` holds, as it comes."""
    seen = []
    run = train(tiny_line_run, name="tiny", root=tmp_path, loggers=(seen.append,), stop_after=4)
    assert json.loads(json.dumps(seen)) == lines(run)


def test_watching_less_changes_nothing_that_is_computed(finished, tiny_line_run, tmp_path):
    """No log entries, evaluations, samples or checkpoints on the way, and the same parameters at the end."""
    quiet = dataclasses.replace(tiny_line_run, log_every=0, evaluate_every=0, checkpoint_every=0)
    run = train(quiet, name="tiny", root=tmp_path)
    assert run.record["params_sha256"] == finished.record["params_sha256"]
    assert lines(run, CHAIN) == lines(finished, CHAIN)
    assert [entry["step"] for entry in lines(run) if entry["kind"] == "train"] == [8]


def test_losses_that_stay_not_finite_name_their_first_step_and_leave_good_checkpoints(tiny_line_run, tmp_path):
    """A rate far too high: the run fails with a sentence, and no checkpoint holds a NaN."""
    wild = dataclasses.replace(tiny_line_run.optimizer, kind="sgd", learning_rate=1e30, clip=0.0)
    experiment = dataclasses.replace(tiny_line_run, optimizer=wild, checkpoint_every=1)
    with pytest.raises(
        UserError, match=r"not finite in 6 steps in a row, from step 2 on: lower --optimizer.learning-rate"
    ):
        train(experiment, name="tiny", root=tmp_path)
    (folder,) = (tmp_path / "tiny").iterdir()
    assert read_record(folder)["status"] == "failed"
    state = load_run(folder).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_resuming_what_computes_something_else_is_refused(finished, tiny_line_run, tmp_path):
    """The changed fields are named with both values; fields of watching may differ."""
    train(tiny_line_run, name="tiny", root=tmp_path, stop_after=1)
    other = dataclasses.replace(tiny_line_run, model=dataclasses.replace(tiny_line_run.model, dropout=0.5), seed=4)
    with pytest.raises(UserError, match=r"model.dropout was 0.0 and is now 0.5; seed was 0 and is now 4\. Resume with"):
        train(other, name="tiny", root=tmp_path, resume=True)
    with pytest.raises(UserError, match="There is no unfinished run of other"):
        train(tiny_line_run, name="other", root=tmp_path, resume=True)
    watched = dataclasses.replace(tiny_line_run, log_every=1, keep_last=5)
    run = train(watched, name="tiny", root=tmp_path, resume=True)
    assert run.record["params_sha256"] == finished.record["params_sha256"]
    with pytest.raises(UserError, match="There is no unfinished run of tiny"):
        train(tiny_line_run, name="tiny", root=tmp_path, resume=True)


def test_a_finished_run_goes_on_to_a_later_end(finished, tiny_line_run, tmp_path):
    """The schedule is stretched, what was trained stays, the record keeps both ends; cut short, it ends the same."""
    longer = dataclasses.replace(tiny_line_run, steps=12)
    runs = []
    for name, stops in {"whole": [], "cut": [9]}.items():
        shutil.copytree(finished.folder, tmp_path / name / "tiny/its_id")
        for stop in [*stops, None]:
            run = train(longer, name="tiny", root=tmp_path / name, run_id="its_id", stop_after=stop)
        runs.append(run)
    whole, cut = runs
    assert lines(whole, CHAIN)[:8] == lines(finished, CHAIN) and len(lines(whole, CHAIN)) == 12
    assert lines(cut, CHAIN) == lines(whole, CHAIN)
    assert cut.record["params_sha256"] == whole.record["params_sha256"]
    (earlier,) = whole.record["extensions"]
    assert (earlier["step"], earlier["steps"], whole.record["config"]["steps"]) == (8, 8, 12)
    assert earlier["params_sha256"] == finished.record["params_sha256"] != whole.record["params_sha256"]
    rates = {entry["step"]: entry["learning_rate"] for entry in lines(whole) if entry["kind"] == "train"}
    assert rates[12] < rates[8] < rates[10] < rates[6], "at 8 near the end of the first schedule"
    kept = read_record(whole.folder)
    assert train(longer, name="tiny", root=tmp_path / "whole", run_id="its_id").record == kept


def test_a_run_is_trained_by_one_process_at_a_time(tiny_line_run, tmp_path):
    """A second process that would resume the same run is refused while the first one trains."""
    train(tiny_line_run, name="tiny", root=tmp_path, stop_after=3)
    first = open_resumable("tiny", tiny_line_run, tmp_path)
    with pytest.raises(UserError, match="trained by another process"):
        open_resumable("tiny", tiny_line_run, tmp_path)
    first.close()
    assert train(tiny_line_run, name="tiny", root=tmp_path, resume=True).record["status"] == "finished"


def test_resuming_under_other_conditions_is_said(tiny_line_run, tmp_path, capsys):
    """Another release or thread count may change the bits: the record and the terminal name what changed.

    What an older version did not record has not changed.
    """
    run = train(tiny_line_run, name="tiny", root=tmp_path, stop_after=3)
    record = read_record(run.folder)
    record["environment"]["packages"]["jax"] = "0.1"
    del record["environment"]["processor"]
    write_record(run.folder, record)
    resumed = train(tiny_line_run, name="tiny", root=tmp_path, resume=True)
    assert "environment.packages.jax was '0.1'" in resumed.record["events"][0]["message"]
    said = capsys.readouterr().err
    assert "environment.packages.jax was '0.1'" in said and "processor was" not in said
