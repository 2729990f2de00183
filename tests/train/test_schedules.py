"""Schedules: the factor of the learning rate at the steps that matter, and nanoGPT's cosine everywhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.train.schedules import Schedule


@given(steps=st.integers(2, 3000), warmup=st.integers(0, 500), final=st.floats(0, 1), place=st.floats(0, 1))
def test_cosine_is_nanogpts(steps, warmup, final, place):
    """`get_lr` of nanoGPT's train.py (Karpathy 2022), with lr_decay_iters the number of steps."""
    warmup = min(warmup, steps - 1)
    step = min(steps - 1, int(place * steps))
    if step < warmup:
        expected = (step + 1) / (warmup + 1)
    else:
        ratio = (step - warmup) / (steps - warmup)
        expected = final + 0.5 * (1 + math.cos(math.pi * ratio)) * (1 - final)
    found = Schedule("cosine", warmup=warmup, final=final).build(steps)(step)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("constant"), {0: 1.0, 57: 1.0, 99: 1.0}),
        (Schedule("constant", warmup=4), {0: 0.2, 1: 0.4, 3: 0.8, 4: 1.0, 99: 1.0}),
        (Schedule("cosine"), {0: 1.0, 50: 0.5, 100: 0.0}),
        (Schedule("cosine", warmup=20, final=0.1), {0: 1 / 21, 19: 20 / 21, 20: 1.0, 60: 0.55, 100: 0.1}),
        (Schedule("linear"), {0: 1.0, 25: 0.75, 100: 0.0}),
        (Schedule("linear", warmup=20, final=0.2), {20: 1.0, 60: 0.6, 100: 0.2}),
        (Schedule("warmup_stable_decay", decay_fraction=0.2), {0: 1.0, 80: 1.0, 90: 0.5, 100: 0.0}),
        (Schedule("warmup_stable_decay", warmup=20, decay_fraction=0.5), {19: 20 / 21, 20: 1.0, 60: 1.0, 80: 0.5}),
        (Schedule("step"), {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
        (Schedule("step", boundaries=(0.25,), drop=0.5, warmup=20), {0: 1 / 21, 39: 1.0, 40: 0.5}),
        (Schedule("step", boundaries=()), {0: 1.0, 99: 1.0}),
    ],
)
def test_factors_at_the_steps_that_matter(schedule, expected):
    """First, last, and turning points of a run of 100 steps."""
    factor = schedule.build(100)
    for step, value in expected.items():
        np.testing.assert_allclose(factor(step), value, rtol=1e-5, atol=1e-6, err_msg=f"step {step}")


@given(
    kind=st.sampled_from(["constant", "cosine", "linear", "warmup_stable_decay", "step"]),
    warmup=st.integers(0, 9),
    step=st.integers(0, 20),
)
def test_a_factor_is_never_below_zero_or_above_one(kind, warmup, step):
    """`learning_rate` is the highest rate there is, also past the end."""
    assert -1e-7 <= float(Schedule(kind, warmup=warmup).build(10)(step)) <= 1 + 1e-6


def test_a_warmup_as_long_as_the_run_is_refused():
    """The message gives both numbers."""
    with pytest.raises(UserError, match="A warm-up of 100 steps leaves nothing of 100 steps"):
        Schedule(warmup=100).build(100)
