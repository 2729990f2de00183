"""Runs that survive bad steps: skips, rollbacks and stops, decided alike whenever and wherever the run continues."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core import trees
from research.core.errors import UserError
from research.core.json_files import read_lines
from research.data.dataset import Data, Rows
from research.data.shuffle import shuffled
from research.data.synthetic import LineData
from research.models.mlp import MLP
from research.runs.chain import first_difference
from research.runs.directory import CHAIN, METRICS
from research.tasks.regression import Regression
from research.tasks.task import WeightedSum
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.recovery import History, Recovery, Rollback, median_before_spike, read_history
from research.train.run import train

BATCH, STEPS = 4, 40


@dataclasses.dataclass(frozen=True)
class FaultyData:
    """A noisy line, seen once in a run, with one wrong target in some of the batches."""

    faults: tuple[tuple[int, float], ...] = ()
    """(batch, target)"""

    def build(self) -> Data:
        data = LineData(examples=2 * BATCH * STEPS, noise=1.0).build()
        rows = data.splits["train"]
        batches = rows.gather(np.arange(len(rows)))
        for batch, target in self.faults:
            row = shuffled(np.array([batch * BATCH]), len(rows), seed=0)[0]
            batches["targets"][row] = target
        return dataclasses.replace(data, splits={**data.splits, "train": Rows(batches)})


@dataclasses.dataclass(frozen=True)
class ScoredRegression(Regression):
    """Regression that also measures a score, the negative loss."""

    def build(self, model, data):
        task = super().build(model, data)

        def loss(params, batch, context):
            found = task.loss(params, batch, context)
            return found._replace(metrics={**found.metrics, "score": WeightedSum(-found.sum, found.weight)})

        return task._replace(loss=loss)


def experiment(*faults: tuple[int, float], **recovery) -> Experiment:
    return Experiment(
        data=FaultyData(faults),
        model=MLP(hidden=(4,)),
        task=Regression(),
        optimizer=Optimizer("adam", learning_rate=1e-2),
        recovery=Recovery(window=10, **recovery),
        steps=STEPS,
        batch_size=BATCH,
        log_every=1,
        evaluate_every=0,
        checkpoint_every=5,
        digest_every=10,
    )


def run(configuration, root, **options):
    return train(configuration, name="tiny", root=root, **options)


def chain_of(finished):
    return list(read_lines(finished.folder / CHAIN))


def batches_of(finished):
    return [entry["batch"] for entry in chain_of(finished)]


def events_of(finished, kind):
    return [event for event in finished.record["events"] if event["kind"] == kind]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A run without any fault."""
    return run(experiment(), tmp_path_factory.mktemp("healthy"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_counted_and_reported(bad, tmp_path, healthy):
    """The run goes on with the next batch and finite parameters; two bad batches side by side are one event."""
    found = run(experiment((7, bad), (8, bad), (39, bad)), tmp_path)
    assert found.record["status"] == "finished"
    assert [(event["step"], event["last"], event["count"]) for event in events_of(found, "skip")] == [
        (8, 9, 2),
        (40, 40, 1),
    ]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.state.params))
    assert first_difference(chain_of(found), chain_of(healthy)) == (8, ["batch", "result"])
    lines = (found.folder / METRICS).read_text(encoding="utf-8").splitlines()
    strict = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [entry["loss"] for entry in strict if entry.get("skipped")] == [None] * 3


def test_more_skips_in_a_row_than_allowed_stop_the_run_at_the_last_good_state(tmp_path):
    """The sentence names the first of them; the state is saved, and --resume goes on with the batches after them."""
    faulty = experiment(*((batch, math.inf) for batch in (3, 11, 12, 13)), skips=2)
    with pytest.raises(
        UserError, match=r"not finite in 3 steps in a row, from step 12 on: lower --optimizer.learning-rate"
    ):
        run(faulty, tmp_path)
    (folder,) = (tmp_path / "tiny").iterdir()
    assert max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.is_dir()) == 15
    resumed = run(faulty, tmp_path, resume=True)
    assert resumed.record["status"] == "finished"
    assert resumed.record["resumes"][0]["step"] == 15
    uninterrupted = run(dataclasses.replace(faulty, recovery=Recovery(window=10)), tmp_path / "patient")
    assert resumed.record["params_sha256"] == uninterrupted.record["params_sha256"]


def test_a_spike_takes_the_run_back_and_its_batches_are_left_out(tmp_path, healthy):
    """From the checkpoint before the spike at step 24 on, the batches are those after the spike's."""
    found = run(experiment((23, 1e4)), tmp_path)
    (event,) = events_of(found, "rollback")
    assert (event["step"], event["to"], event["skipped"]) == (24, 20, [20, 23])
    assert "the loss rose to" in event["message"]
    right = batches_of(run(dataclasses.replace(experiment(), steps=STEPS + 4), tmp_path / "longer"))
    assert batches_of(found) == [*right[:20], *right[24:]]
    assert [entry["step"] for entry in chain_of(found)] == list(range(1, STEPS + 1))
    steps = [entry["step"] for entry in read_lines(found.folder / METRICS) if entry["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    assert first_difference(chain_of(found), chain_of(healthy)) == (21, ["batch", "result"])


def test_the_same_seed_meets_the_same_spikes(tmp_path):
    """Run again, or interrupted before, on and after rollbacks, the run has an equal chain and parameters.

    Twice at step 18; at step 30, where a checkpoint is due and not made; and at the last step.
    """
    configuration = experiment(*((batch, 1e4) for batch in (6, 19, 22, 37, 52)), rollbacks=5)
    whole = run(configuration, tmp_path / "whole")
    returns = [(event["step"], event["to"]) for event in events_of(whole, "rollback")]
    assert returns == [(7, 5), (18, 15), (18, 15), (30, 25), (40, 35)]
    assert run(configuration, tmp_path / "again").record["chain"] == whole.record["chain"]
    for stop in (6, 15, 17, 38):
        run(configuration, tmp_path / "parts", resume=stop > 6, stop_after=stop)
    resumed = run(configuration, tmp_path / "parts", resume=True)
    assert chain_of(resumed) == chain_of(whole)
    assert trees.digest(resumed.state) == trees.digest(whole.state)


def test_a_spike_before_any_checkpoint_leads_back_to_the_start(tmp_path):
    """The initial state is made again, and the first batch is the one after the spike's."""
    found = run(dataclasses.replace(experiment((9, 1e4)), checkpoint_every=0), tmp_path)
    assert [(event["step"], event["to"]) for event in events_of(found, "rollback")] == [(10, 0)]
    assert (
        batches_of(found)[:2] == batches_of(run(dataclasses.replace(experiment(), steps=12), tmp_path / "other"))[10:]
    )


def test_a_spike_is_one_of_the_metric_that_decides(tmp_path):
    """Where a score that should be high decides, a fall is a spike and a rise of the loss is none."""
    configuration = dataclasses.replace(experiment((13, 1e4)), task=ScoredRegression())
    assert events_of(run(configuration, tmp_path / "loss"), "rollback")
    judged = dataclasses.replace(configuration, recovery=Recovery(window=10, best=("score", "max")))
    (event,) = events_of(run(judged, tmp_path / "score"), "rollback")
    assert event["message"].startswith("the score fell to -2.5e+07 at step 14")
    unmoved = dataclasses.replace(judged, recovery=Recovery(window=10, best=("score", "min")))
    assert events_of(run(unmoved, tmp_path / "unmoved"), "rollback") == []


def test_a_metric_that_no_step_has_is_named(tmp_path):
    """The sentence lists those that there are."""
    configuration = dataclasses.replace(experiment(), recovery=Recovery(best=("accuracy", "max")))
    with pytest.raises(UserError, match=r"--recovery.best accuracy is no metric of a step: give one of .*loss"):
        run(configuration, tmp_path)


def test_more_spikes_than_rollbacks_stop_the_run(tmp_path):
    """The sentence says what rose, how often the run went back, and what to do; spike 0 lets all pass."""
    faults = ((12, 1e4), (22, 1e4))
    with pytest.raises(UserError, match=r"Once more the loss rose to .* after 1 rollbacks: start a new run with"):
        run(experiment(*faults, rollbacks=1), tmp_path)
    assert run(experiment(*faults, spike=0.0), tmp_path / "bold").record["events"] == []


def test_the_checkpoint_that_a_spike_leads_back_to_outlives_interruptions(tmp_path):
    """Of the last checkpoints only one is kept, and an interruption's is newer: the periodic one stays too."""
    configuration = dataclasses.replace(experiment((13, 1e4)), keep_last=1)
    whole = run(configuration, tmp_path / "whole")
    run(configuration, tmp_path, stop_after=12)
    run(configuration, tmp_path, resume=True, stop_after=13)
    assert chain_of(run(configuration, tmp_path, resume=True)) == chain_of(whole)


@given(st.lists(st.floats(0.5, 2), min_size=50, max_size=100), st.floats(0, 2))
def test_losses_among_their_like_are_no_spikes_and_far_above_are(losses, loss):
    """Nothing within what was seen is a spike; what lies far above all of it is one."""
    recovery = Recovery()
    assert median_before_spike(recovery, tuple(losses), min(loss, max(losses))) is None
    assert median_before_spike(recovery, tuple(losses), 50.0) is not None
    assert median_before_spike(recovery, tuple(losses[:49]), 50.0) is None
    highest = Recovery(best=("score", "max"))
    assert median_before_spike(highest, tuple(losses), 50.0) is None
    assert median_before_spike(highest, tuple(losses), -50.0) is not None


def test_a_spike_is_measured_in_robust_deviations():
    """By hand: of 0..100 the median is 50 and the median absolute deviation 25, so twenty deviations end at 791.3."""
    losses = tuple(map(float, range(101)))
    assert median_before_spike(Recovery(), losses, 791.2) is None
    assert median_before_spike(Recovery(), losses, 791.4) == 50
    flat = (1.0,) * 100
    assert median_before_spike(Recovery(), flat, 1.19) is None
    assert median_before_spike(Recovery(), flat, 1.21) == 1
    assert median_before_spike(Recovery(), (0.0,) * 100, 1e-9) is None


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=5))
def test_no_batch_left_out_comes_back(returns):
    """After any rollbacks, each from some steps further to some steps back, batches go on after the last spike's."""
    history, step = History(), 0
    for further, back in returns:
        step += further
        seen = max(history.batch(taken) for taken in range(step))
        rollback = history.rollback(step, max(step - back, 0))
        assert rollback.batch == history.batch(step - 1) + 1
        history, step = dataclasses.replace(history, rollbacks=(*history.rollbacks, rollback)), rollback.to
        assert history.batch(step) > seen
        assert [history.batch(step + later) for later in range(3)] == [rollback.batch + later for later in range(3)]


def test_a_history_survives_a_checkpoints_facts():
    """Written as JSON and read again it is the same, losses to the bit."""
    history = History((float(np.float32(0.1)), 1e-30), 2, (Rollback(24, 20, 24),))
    assert read_history(json.loads(json.dumps(dataclasses.asdict(history)))) == history


@pytest.mark.parametrize("wrong", [{"window": 1}, {"skips": -1}, {"spike": -1.0}, {"rollbacks": -1}])
def test_impossible_settings_are_refused(wrong, tmp_path):
    """A sentence names the fields before anything is trained."""
    with pytest.raises(UserError, match=f"--recovery.{next(iter(wrong))} is "):
        run(dataclasses.replace(experiment(), recovery=Recovery(**wrong)), tmp_path)
