"""Columns of a table to features: what a column is, learned from the training rows, and how its values become numbers.

`fit` looks at a column of the training rows, `encode` makes features of the same column of any rows. `TableData` puts
the columns together.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from research.core.errors import UserError, listed
from research.data.cells import TRUTHS, days_of, is_date, is_missing, is_number, meaning, number_of

MAX_CATEGORIES = 1000  # one feature each; a column of more is left out
FEW = 20  # categories that never count as nearly one for each row
LARGEST = 1e100  # of a number, so that no square overflows
WITH_COMMA = re.compile(r"[+-]?[\d.]*,[\d.,]*\d|[+-]?\d+(\.\d+)?", re.ASCII)
Numbers = Float64[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, or of dates as days: one feature with mean 0 and standard deviation 1, or two."""

    name: str
    booleans: bool
    """whether all are true or false, which count as 1 and 0"""
    dates: bool
    logarithm: bool
    has_missing: bool
    """whether training rows lack it: a second feature then says for each row whether it does"""
    median: float
    """stands where there is none"""
    mean: float
    std: float

    @property
    def width(self) -> int:
        """How many features it has."""
        return 1 + self.has_missing


@dataclasses.dataclass(frozen=True)
class CategoryColumn:
    """A column of categories: one feature each, among them a missing value where training rows have one."""

    name: str
    kinds: tuple[str, ...]

    @property
    def width(self) -> int:
        """How many features it has."""
        return len(self.kinds)


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A column that would make no sensible features."""

    name: str
    reason: str


Column = NumberColumn | CategoryColumn


def fit(name: str, values: Sequence[Any], *, logarithm: bool = False) -> Column | LeftOut:
    """Returns what a column of the training rows is.

    Raises:
        UserError: most values are numbers but not all, a number is infinite or beyond 1e100, or a value is a list.
    """
    if nested := [value for value in values if isinstance(value, list | dict | bytes)]:
        raise UserError(
            f"The column {name!r} has {str(nested[0])[:80]!r}, a {type(nested[0]).__name__}, where a number or a "
            f"category should be: write it in columns of its own, or add --data.ignore {name}."
        )
    present = [value for value in values if not is_missing(value)]
    if not present:
        return LeftOut(name, "has no values")
    others = [value for value in present if not is_number(value)]
    dates = all(map(is_date, present))
    if 0 < len(others) < len(present) / 2:
        raise UserError(
            f"The column {name!r} holds numbers but for {len(others)} values such as {others[0][:80]!r}: fix them, "
            f"leave them empty, or add --data.ignore {name}."
        )
    if others and not dates:
        return _fit_categories(name, values)
    numbers, missing = _numbers(name, values, dates=dates, logarithm=logarithm)
    if name.startswith("Unnamed: ") and not missing.any() and (np.diff(numbers) > 0).all():
        return LeftOut(name, "has no name and counts the rows")
    median = float(np.median(numbers[~missing]))
    return NumberColumn(
        name,
        all(isinstance(value, bool | np.bool_) for value in present),
        dates,
        logarithm,
        bool(missing.any()),
        median,
        *_mean_and_std(np.where(missing, median, numbers)),
    )


def _fit_categories(name: str, values: Sequence[Any]) -> CategoryColumn | LeftOut:
    kinds = set(map(_category, values))
    numbers = sorted(kind for kind in kinds if not is_missing(kind))
    if all(map(WITH_COMMA.fullmatch, numbers)):
        raise UserError(
            f"The column {name!r} has numbers with commas, such as {numbers[0][:80]!r}: write them with a decimal "
            f"point and nothing between thousands, or add --data.ignore {name}."
        )
    if len(kinds) > MAX_CATEGORIES or (len(kinds) > FEW and len(kinds) > len(values) / 2):
        return LeftOut(
            name, f"has {len(kinds):,} different values in {len(values):,} rows, such as {listed(map(repr, values), 2)}"
        )
    return CategoryColumn(name, tuple(sorted(kinds)))


def encode(column: Column, values: Sequence[Any]) -> Float32[np.ndarray, "rows features"]:
    """Returns the features of the values of a column; raises UserError for what is no number where numbers should be.

    A category that the training rows do not have is all zeros.
    """
    if isinstance(column, CategoryColumn):
        places = {kind: place for place, kind in enumerate(column.kinds)}
        found = np.array([places.get(kind_of(column, value), -1) for value in values], np.int64)
        features = np.zeros((len(values), len(places)), np.float32)
        features[np.flatnonzero(found >= 0), found[found >= 0]] = 1
        return features
    if column.booleans:
        values = [read_as(column, value) for value in values]
    numbers, missing = _numbers(column.name, values, dates=column.dates, logarithm=column.logarithm)
    scaled = (np.where(missing, column.median, numbers)[:, None] - column.mean) / column.std
    if (np.abs(scaled) > np.finfo(np.float32).max).any():
        raise UserError(
            f"The column {column.name!r} has values too far from those of the training rows to compute with: fix them, "
            f"or add --data.ignore {column.name}."
        )
    return np.concatenate([scaled, missing[:, None]][: column.width], 1).astype(np.float32)


def read_as(column: NumberColumn, value: Any) -> Any:
    """Returns a value as the column takes it: in one of booleans, the text "True" is 1."""
    return meaning(value) if column.booleans and isinstance(value, str) else value


def kind_of(column: CategoryColumn, value: Any) -> str:
    """Returns the category of a value; of one that is missing, true or false, that of the training rows.

    Those are written in several ways: "NA" and "", "True" and "true".
    """
    kind = _category(value)
    if kind not in column.kinds and is_missing(value):
        return next(filter(is_missing, column.kinds), kind)
    if kind not in column.kinds and kind.lower() in TRUTHS:
        return next((each for each in column.kinds if each.lower() == kind.lower()), kind)
    return kind


def _category(value: Any) -> str:
    return "" if not isinstance(value, str) and is_missing(value) else str(value).strip()


def targets_of(name: str, values: Sequence[Any]) -> Float32[np.ndarray, "rows 1"]:
    """Returns numbers to predict; raises UserError for a value that is none, or too large to compute with."""
    numbers, _ = _numbers(name, values, dates=False, logarithm=False)
    if (np.abs(numbers) > np.finfo(np.float32).max).any():
        raise UserError(f"The target {name!r} has numbers beyond 3e38: give it in a larger unit.")
    return numbers[:, None].astype(np.float32)


def _numbers(
    name: str, values: Sequence[Any], *, dates: bool, logarithm: bool
) -> tuple[Numbers, Bool[np.ndarray, " rows"]]:
    """Returns the numbers of a column, 0 where they are missing, and whether they are."""
    missing = np.array([is_missing(value) for value in values], bool)
    good, number = (is_date, days_of) if dates else (is_number, number_of)
    present = [value for value, is_out in zip(values, missing, strict=True) if not is_out]
    if wrong := [value for value in present if not good(value)]:
        kind = "dates" if dates else "numbers"
        raise UserError(
            f"The column {name!r} holds {kind} in the training rows, elsewhere: {str(wrong[0])[:80]!r}; fix it."
        )
    numbers = np.zeros(len(values))
    numbers[~missing] = [number(value) for value in present]
    if logarithm:
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = np.log1p(numbers)
    if not np.isfinite(numbers).all():
        raise UserError(
            f"The column {name!r} has values that are not finite numbers, or not above -1 for --data.logarithm: "
            "fix them, or leave the column out with --data.ignore."
        )
    if (beyond := np.abs(numbers) > LARGEST).any():
        raise UserError(
            f"The column {name!r} has numbers such as {numbers[beyond][0]:g}, beyond {LARGEST:g}: fix them, or add "
            f"--data.logarithm {name} or --data.ignore {name}."
        )
    return numbers, missing


def _mean_and_std(numbers: Numbers) -> tuple[float, float]:
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return low, 1.0
    # The squares of tiny numbers are 0: those are measured in units of their range.
    return float(numbers.mean()), float(numbers.std()) or float((numbers / (high - low)).std()) * (high - low)
