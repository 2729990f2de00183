"""What one value of a table means: missing, a number, a date, or a class, whatever form the file has given it.

The forms are those of spreadsheets and of pandas. Text that only Python would take for a number, such as "1_2" or
"infinity", is text.
"""

import datetime
import math
import re
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from research.core.errors import UserError

MISSING = frozenset(
    ("", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None"),
)  # what stands for no value; white space around it does not count
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # in time linear in the length
DATE = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)  # ISO 8601, as files have it
TRUTHS = ("false", "true")  # in lower case, each at the number that it stands for
MAX_DIGITS = 4000  # that Python's int() takes


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, or a text of `MISSING`.

    >>> [is_missing(value) for value in (None, " NA ", float("nan"), 0, "none at all")]
    [True, True, True, False, False]
    """
    if isinstance(value, str):
        return value.strip() in MISSING
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def is_number(value: Any) -> bool:
    """Whether a value is a number, or a text that is one in plain form: "-1.5e3", not "1_000", "1,000" or "inf"."""
    if isinstance(value, str):
        return NUMBER.fullmatch(value.strip()) is not None
    return isinstance(value, bool | int | float | np.number | np.bool_)


def number_of(value: Any) -> float:
    """Returns the number that `is_number` says a value is; beyond the range of floating point it is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_date(value: Any) -> bool:
    """Whether a value is a date, or a date and a time, of ISO 8601 that exists."""
    if not isinstance(value, str) or not DATE.fullmatch(value.strip()):
        return False
    try:
        days_of(value)
    except ValueError:
        return False
    return True


def days_of(value: str) -> float:
    """Returns the days from 1970 to a date that `is_date`; a time without a zone is UTC.

    >>> days_of("1970-01-02T12:00")
    1.5
    """
    moment = datetime.datetime.fromisoformat(value.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) / datetime.timedelta(days=1)


def meaning(label: Any) -> Hashable:
    """Returns what a label means: 0, 0.0, "0", "0.0", false and "False" are one class, "a" and " a " are another.

    Text with a leading zero, such as "007", is a code and stays as it is.

    Raises:
        UserError: the label is no single value.
    """
    if isinstance(label, str):
        text = label.strip()
        if text.lower() in TRUTHS:
            return TRUTHS.index(text.lower())
        if not is_number(text) or re.match(r"[+-]?0\d", text) or len(text) > MAX_DIGITS:
            return text
        number = float(text)
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else number if math.isfinite(number) else text
    if isinstance(label, bool | int | float | np.number | np.bool_):
        return label.item() if isinstance(label, np.generic) else label
    raise UserError(f"A class is {str(label)[:80]!r}, a {type(label).__name__}: give each class one name or number.")


def class_names(labels: Iterable[Any]) -> dict[Hashable, str]:
    """Returns the name of each class by its meaning.

    The name is what the file says, and where it says one thing in several ways, the number: 0, "0.0" and false are "0".

    >>> class_names(["a", "b", "a "]), class_names([True, 1, "0"]), class_names([True, False])
    ({'a': 'a', 'b': 'b'}, {1: '1', 0: '0'}, {1: 'True', 0: 'False'})
    """
    spellings: dict[Hashable, set[str]] = {}
    for label in labels:
        spellings.setdefault(meaning(label), set()).add(str(label).strip())
    return {each: next(iter(names)) if len(names) == 1 else _number_name(each) for each, names in spellings.items()}


def _number_name(number: Any) -> str:
    return str(int(number)) if isinstance(number, int) or number.is_integer() else repr(number)
