"""What the training loop does after a step is a function of the step and the experiment's periods alone."""

import dataclasses

import pytest

from research.train.loop import Due, due


@pytest.fixture
def experiment(tiny_line_run):
    """Ten steps, and four periods that differ."""
    periods = {"evaluate_every": 4, "sample_every": 0, "checkpoint_every": 3, "digest_every": 6}
    return dataclasses.replace(tiny_line_run, steps=10, **periods)


def test_each_period_has_its_own_steps(experiment):
    """Multiples of the period, counted from 1, and the last step."""
    steps = {name: [step for step in range(1, 11) if getattr(due(experiment, step), name)] for name in Due._fields}
    assert steps == {"evaluate": [4, 8, 10], "sample": [], "checkpoint": [3, 6, 9, 10], "digest": [6, 10]}


def test_a_period_of_zero_is_never_due(experiment):
    """Not at the last step either."""
    never = dataclasses.replace(experiment, evaluate_every=0, checkpoint_every=0, digest_every=0)
    assert not any(any(due(never, step)) for step in range(1, 11))


def test_a_period_longer_than_the_run_is_due_at_its_end(experiment):
    """Whoever asks for evaluations gets at least the last one."""
    assert due(dataclasses.replace(experiment, evaluate_every=99), 10).evaluate
    assert not due(dataclasses.replace(experiment, evaluate_every=99), 9).evaluate
