"""Training ends early where evaluations find nothing better, or a callback says so; both are exact through a stop."""

import dataclasses

import jax
import pytest

from research.core import trees
from research.evaluate.regression import RegressionEvaluator
from research.train.recovery import History
from research.train.run import train


@dataclasses.dataclass(frozen=True)
class Worse(RegressionEvaluator):
    """An evaluator by which the best result is that of step 4."""

    def build(self, task, data, mesh, seed):
        """Counts its calls: 2, 1, 2, 3, ... are the losses it gives."""
        losses = iter([2.0, 1.0])
        evaluation = super().build(task, data, mesh, seed)

        def measure(params, between=lambda: None):
            return {**evaluation.measure(params, between), "loss": next(losses, 3.0)}

        return evaluation._replace(measure=measure)


@pytest.fixture
def impatient(tiny_line_run):
    """A run of 8 steps whose evaluations are at 2, 4, 6 and 8."""
    few = dataclasses.replace(tiny_line_run, evaluators=(Worse(batch_size=64, limit=8),))
    return dataclasses.replace(few, evaluate_every=2, checkpoint_every=2, patience=1)


def test_no_better_result_ends_the_training(impatient, tmp_path):
    """The run is finished, saved and can be continued past it; the record says why, and the best state is kept."""
    run = train(impatient, name="tiny", root=tmp_path)
    assert run.state.step == 6 and run.record["status"] == "finished" and "params_sha256" in run.record
    assert [(event["kind"], event["step"]) for event in run.record["events"]] == [("patience", 6)]
    assert (run.folder / "checkpoints/00000004.json").exists()
    again = train(impatient, name="tiny", root=tmp_path, run_id=run.folder.name)
    assert again.state.step == 6, "as it was, where the program is lost after its end"
    longer = dataclasses.replace(impatient, steps=10, patience=1)
    assert train(longer, name="tiny", root=tmp_path, run_id=run.folder.name).state.step == 8


def test_patience_counts_evaluations_in_a_row():
    """A better result starts the count again; one that is no number counts as none."""
    history = History()
    for score, stale in ((2.0, 0), (2.0, 1), (None, 2), (1.0, 0), (1.5, 1)):
        history = history.evaluated(score)
        assert history.stale == stale
    assert history.best == 1.0


def test_a_callback_sees_every_state_and_may_stop_the_run(tiny_line_run, tmp_path):
    """It gets the state after each step; the run that it stops is interrupted, and goes on to the same end."""
    digests = []

    def watch(step, state):
        assert step == state.step
        digests.append(trees.digest(jax.device_get(state.params)))
        return step == 3

    plain = dataclasses.replace(tiny_line_run, evaluators=(), sample_every=0)
    stopped = train(plain, name="tiny", root=tmp_path, callbacks=(watch,))
    assert stopped.record["status"] == "interrupted" and stopped.state.step == len(digests) == 3
    assert digests[-1] == trees.digest(stopped.state.params) != digests[0]
    assert train(plain, name="tiny", root=tmp_path, resume=True).record["status"] == "finished"
