"""Charts: scales, ticks, thinning and smoothing."""

import json
import math

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from research.report.charts import Scale, Series, decimate, line_chart, smooth

values = st.floats(-1e30, 1e30, allow_nan=False)
lines = st.lists(values, min_size=1, max_size=60).map(lambda numbers: list(enumerate(numbers, start=1)))


def chart_of(points, **options):
    chart = line_chart("Loss", [Series("training", points)], **options)
    assert chart is not None
    return chart


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=900), st.integers(20, 200))
def test_thinning_keeps_the_ends_and_the_extremes(numbers, most):
    """A thinned line is short, part of the line, and keeps its ends, its lowest and its highest value."""
    line = list(enumerate(numbers))
    kept = decimate(line, most)
    assert len(kept) <= most + 2
    assert set(kept) <= set(line) and kept == sorted(kept)
    assert kept[0] == line[0] and kept[-1] == line[-1]
    assert {min(numbers), max(numbers)} <= {value for _, value in kept}


@settings(deadline=None)
@given(lines)
@example([(1, 2e-309), (2, 7e29)])
@example([(1, 3.0)])
def test_everything_drawn_is_inside_the_chart(line):
    """Every point and every tick lies within the drawing, on the linear and on the logarithmic scale."""
    for view in chart_of(line, logarithm=True).views:
        for _, value in line:
            assert -1e-6 <= view.scale.fraction(value) <= 1 + 1e-6
        assert all(-1e-6 <= place <= 100 + 1e-6 for place, _ in view.x_ticks + view.y_ticks)
        assert 1 <= len(view.y_ticks) <= 8


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (Scale(0.0, 1.0), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Scale(1.3, 4.2), [2, 3, 4]),
        (Scale(0.9, 110.0, logarithmic=True), [1, 2, 5, 10, 20, 50, 100]),
        (Scale(1e-6, 1.0, logarithmic=True), [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]),
        (Scale(1.3, 4.2, logarithmic=True), [2, 3, 4]),
    ],
)
def test_ticks_are_round_numbers(scale, expected):
    """Ticks are multiples of 1, 2, 2.5 or 5 powers of ten, on a wide logarithmic scale the powers themselves."""
    assert scale.ticks() == pytest.approx(expected)


def test_a_wide_range_opens_on_the_logarithmic_scale():
    """A loss over more than a factor of 30 is shown by its logarithm first, a narrow one linearly first."""
    assert [view.name for view in chart_of([(1, 10.0), (2, 0.01)], logarithm=True).views] == ["log", "linear"]
    assert [view.name for view in chart_of([(1, 4.0), (2, 1.0)], logarithm=True).views] == ["linear", "log"]
    assert [view.name for view in chart_of([(1, 4.0), (2, -1.0)], logarithm=True).views] == ["linear"]


def test_values_that_are_not_finite_are_left_out():
    """A NaN or an infinity leaves the rest of the line drawn; a line of nothing else gives no chart."""
    chart = chart_of([(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)])
    assert json.loads(chart.values)["series"][0]["points"] == [[1, 2.0], [4, 1.0]]
    assert line_chart("Loss", [Series("training", [(1, math.nan)]), Series("validation", [])]) is None


@settings(deadline=None)
@given(lines)
def test_smoothing_stays_within_the_line(line):
    """A smoothed line has the same steps and leaves neither the range of the values nor a constant."""
    smoothed = smooth(line)
    numbers = [value for _, value in line]
    margin = 1e-9 * max(map(abs, numbers))
    assert [step for step, _ in smoothed] == [step for step, _ in line]
    assert all(min(numbers) - margin <= value <= max(numbers) + margin for _, value in smoothed)


def test_smoothing_does_not_lag():
    """The average of a straight line is that line, but for the one-sided end."""
    line = [(step, 3.0 * step) for step in range(400)]
    assert [value for _, value in smooth(line)[:390]] == pytest.approx([value for _, value in line[:390]])
