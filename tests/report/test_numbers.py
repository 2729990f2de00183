"""Numbers as text."""

import math

import pytest

from research.report import numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.37214, "1.3721"),
        (0.00012345, "1.234e-4"),
        (123456.78, "123,456.8"),
        (0.0, "0.0000"),
        (42_000, "42,000"),
        (math.nan, "nan"),
        (None, "–"),
        (True, "–"),
        ([1, 2], "–"),
    ],
)
def test_results_have_the_digits_that_matter(value, expected):
    """A result has four decimals, thousands apart; what is not a number is a dash."""
    assert numbers.metric(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.25, "0.25"), (1e-5, "1e-5"), (7.5e-4, "7.5e-4"), (0, "0"), (2000, "2,000"), (12_000, "12k"), (3.5e6, "3.5M")],
)
def test_labels_of_axes_are_short(value, expected):
    """A label takes about five characters."""
    assert numbers.compact(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0123, "12 ms"), (12.34, "12.3 s"), (59.99, "60.0 s"), (252, "4 min 12 s"), (7500, "2 h 5 min")],
)
def test_durations_are_in_words(seconds, expected):
    """A duration is given in the units that say something."""
    assert numbers.duration(seconds) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.9134, "91.3 %"), (0.0042, "0.42 %"), (0, "0.0 %")])
def test_shares_are_percentages(value, expected):
    """A share is a percentage."""
    assert numbers.share(value) == expected
