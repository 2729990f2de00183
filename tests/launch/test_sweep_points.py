"""Promises of a sweep's points: what a grid says is read or refused, and draws are what their names promise."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from experiments import article_regression, nanogpt_cpu
from research.core.errors import UserError
from research.launch.sweep_points import Interval, draw, number_type, read_seeds, read_values, value_at

fractions = st.floats(0, 1, exclude_max=True)
numbers = st.floats(-1e9, 1e9).map(lambda value: round(value, 9))


@pytest.mark.parametrize(
    ("text", "seeds"), [("0..2", [0, 1, 2]), ("0,3,5", [0, 3, 5]), ("1..2,7", [1, 2, 7]), ("4", [4])]
)
def test_seeds_are_ranges_and_lists(text: str, seeds: list[int]) -> None:
    """Ranges include both ends."""
    assert read_seeds(text) == seeds


def test_a_range_is_one_of_numbers() -> None:
    """Whole numbers for a field of them, also one that may be empty; of texts and tuples, two dots are a value."""
    small, gpt = article_regression.CONFIG, nanogpt_cpu.CONFIG
    assert number_type(small, "optimizer.learning_rate") is number_type(gpt, "optimizer.weight_decay") is float
    assert number_type(small, "batch_size") is number_type(gpt, "evaluators.0.batch_size") is int
    assert [number_type(small, field) for field in ("model.hidden", "optimizer.kind", "data.type")] == [None] * 3
    assert number_type(gpt, "model.bias") is None
    assert read_values("data.folder", "../a,../b", None) == ["../a", "../b"]
    assert read_values("steps", " -5 .. 1_000 ", int) == Interval(-5, 1000)
    assert read_values("optimizer.clip", ".5..1e1", float) == Interval(0.5, 10.0)


@pytest.mark.parametrize(
    ("text", "number", "sentence"),
    [
        ("1..", float, "two numbers, such as"),
        ("1e1..1e2", int, "two whole numbers, such as"),
        ("..", int, "two whole numbers, such as"),
        ("1..2,3", float, "two numbers, such as"),
        ("4,1..2", int, "two whole numbers, such as"),
        ("2..2", int, "its first number is to be below its second"),
        ("2..1", float, "its first number is to be below its second"),
        ("nan..1", float, "its first number is to be below its second"),
        ("0..inf", float, "its first number is to be below its second"),
        ("-1e308..1e308", float, "its first number is to be below its second"),
        (f"0..{'9' * 400}", int, "two whole numbers, such as"),
        (f"0..{'9' * 5000}", int, "two whole numbers, such as"),
    ],
)
def test_a_range_that_is_none_is_refused(text: str, number: type[int] | type[float], sentence: str) -> None:
    """One sentence names the grid as it was given."""
    with pytest.raises(UserError, match=sentence) as refused:
        read_values("optimizer.clip", text, number)
    assert str(refused.value).startswith(f"--grid optimizer.clip={text} is no range: ")


@given(numbers, numbers, fractions)
def test_a_drawn_number_is_inside_its_range(first: float, second: float, fraction: float) -> None:
    """However it is rounded for the table."""
    low, high = sorted((first, second))
    if math.isfinite(high - low) and low < high:
        assert low <= float(value_at(Interval(low, high), fraction)) <= high


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**40), fractions)
def test_a_drawn_whole_number_is_inside_its_range(low: int, width: int, fraction: float) -> None:
    """Whole, as it is written."""
    assert low <= int(value_at(Interval(low, low + width), fraction)) <= low + width


@given(fractions)
def test_what_is_uniform(fraction: float) -> None:
    """The logarithm where both ends are positive and a factor 10 apart, as 1e-4 and 1e-3 are; else the number."""
    value = float(value_at(Interval(1e-4, 1e-3), fraction))
    assert math.log10(value) == pytest.approx(-4 + fraction, abs=1e-3)
    for low, high in ((1e-3, 9.9e-3), (0.0, 1.0), (-1.0, 100.0)):
        value = float(value_at(Interval(low, high), fraction))
        assert (value - low) / (high - low) == pytest.approx(fraction, abs=1e-3)


def test_whole_numbers_and_lists_are_drawn_uniformly() -> None:
    """Each of four as often as another, both ends among them (chi-square, 3 degrees of freedom, at 1e-6)."""
    drawn = list(draw({"model.depth": Interval(1, 4), "model.heads": ["1", "2", "3", "4"]}, 10_000, seed=0))
    for column in zip(*drawn, strict=True):
        counts = [column.count(str(value)) for value in (1, 2, 3, 4)]
        assert sum(counts) == 10_000 and sum((count - 2500) ** 2 / 2500 for count in counts) < 30.7


def test_a_field_has_random_numbers_of_its_own() -> None:
    """Another field changes none, more draws begin with the same points, and fields of one range differ."""
    rate = {"optimizer.learning_rate": Interval(1e-4, 1e-2)}
    both = {"optimizer.epsilon": Interval(1e-4, 1e-2), **rate}
    alone = [value for (value,) in draw(rate, 8, seed=3)]
    assert [second for _, second in draw(both, 8, seed=3)] == alone
    assert [value for (value,) in draw(rate, 5, seed=3)] == alone[:5]
    assert all(first != second for first, second in draw(both, 8, seed=3))
    assert [value for (value,) in draw(rate, 8, seed=4)] != alone
