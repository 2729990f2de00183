"""Every number of a configuration is compared with its range, and what is out of it is one sentence."""

import dataclasses
import math
import time
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core import patterns, ranges
from research.core.errors import UserError
from research.core.ranges import Below1, Depth, FilePath, Fraction, Pattern, Prose, Range, Regex, Seed


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a configuration."""

    dropout: Below1 = 0.0
    kind: Literal["tanh", "relu"] = "relu"
    both: bool = True

    def check(self) -> None:
        if self.kind == "tanh" and self.dropout:
            raise UserError("A tanh has no dropout here.")


@dataclasses.dataclass(frozen=True)
class Whole:
    """A configuration."""

    depth: Depth = 4
    seed: Seed = 0
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    limits: tuple[Fraction, ...] = (0.1,)
    rules: tuple[tuple[Regex, Fraction], ...] = (("", 1.0),)
    few: Annotated[int, Range(1, 3)] | None = None
    plain: float = 1.0
    file: FilePath = ""
    text: Prose = ""
    any_part: Any = None


# Made without the check of types that the tests add to dataclasses, as a user's are.
def made(**fields: Any) -> Whole:
    whole = Whole()
    for name, value in fields.items():
        object.__setattr__(whole, name, value)
    return whole


def part(**fields: Any) -> Part:
    whole = Part()
    for name, value in fields.items():
        object.__setattr__(whole, name, value)
    return whole


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 10**9}, "--depth is 1000000000: give a number from 1 to 1000."),
        ({"depth": True}, "--depth is True: give a whole number."),
        ({"depth": 4.0}, "--depth is 4.0: give a whole number."),
        ({"depth": "4"}, "--depth is '4': give a whole number."),
        ({"depth": None}, "--depth is None: give a whole number."),
        ({"seed": 2**70}, f"--seed is {2**70}: give a number from 0 to 4294967295."),
        ({"seed": 10**5000}, "--seed is a number of thousands of digits: give a number from 0 to 4294967295."),
        ({"part": part(dropout=math.nan)}, "--part.dropout is nan: give a number from 0 to below 1."),
        ({"part": part(dropout=1.0)}, "--part.dropout is 1.0: give a number from 0 to below 1."),
        ({"part": part(kind="sine")}, "--part.kind is 'sine': give one of 'tanh', 'relu'."),
        ({"part": part(both=1)}, "--part.both is 1: give true or false."),
        ({"part": part(kind="tanh", dropout=0.5)}, "A tanh has no dropout here."),
        ({"part": "big"}, "--part is 'big': give a Part."),
        ({"parts": (Part(), part(dropout=-0.1))}, "--parts.1.dropout is -0.1: give a number from 0 to below 1."),
        ({"limits": [0.1]}, "--limits is [0.1]: give a tuple of any length."),
        ({"limits": (0.1, math.inf)}, "--limits has inf: give a number from 0 to 1."),
        ({"limits": (0.1,) * 10_001}, "--limits has 10001 items: give 10000 or fewer."),
        ({"rules": (("[z-a]", 1.0),)}, "--rules has '[z-a]': as a pattern it is no regular expression"),
        ({"rules": (("a", 1.0), ("b",))}, "--rules has ('b',): give a tuple of 2 items."),
        ({"few": 4}, "--few is 4: give a number from 1 to 3."),
        ({"few": "4"}, "--few is '4': give a whole number or nothing."),
        ({"plain": "1"}, "--plain is '1': give a number."),
        ({"file": "/dev/zero"}, "--file is '/dev/zero': give a regular file."),
        ({"text": "caf\udce9"}, "--text is 'caf\\udce9': give text in UTF-8."),
        ({"file": "/"}, "--file is '/': give a regular file."),
        ({"any_part": part(dropout=2)}, "--any-part.dropout is 2: give a number from 0 to below 1."),
    ],
)
def test_what_does_not_fit_is_named_with_its_value_and_what_to_give(fields, message):
    """The option, the value, the range: also in parts, in parts of unknown class, and among several."""
    with pytest.raises(UserError) as refused:
        ranges.check(made(**fields))
    assert str(refused.value).startswith(message)


def test_what_fits_comes_back():
    """Ends belong to a range unless it says otherwise; whole numbers are numbers; nothing is what an option may be.

    A field of one's own that states no range has none.
    """
    for file in (__file__, "no file of this name", "with\0nothing", "n" * 5000):
        ranges.check(made(file=file))  # who reads it says that it is not there
    whole = made(depth=1000, limits=(0, 1, 0.5), few=3, part=part(dropout=0), plain=math.nan, any_part=None)
    assert ranges.check(whole) is whole


def test_a_place_names_fields_as_its_reader_knows_them():
    """A published model's file has other names than the command line."""
    with pytest.raises(UserError, match=r"^'model.part.dropout' in config.json is 2: "):
        ranges.check(made(part=part(dropout=2)), lambda field: f"{field!r} in config.json", within="model")


@given(low=st.floats(-1e6, 1e6), size=st.floats(1e-3, 1e6), above=st.booleans(), below=st.booleans(), value=st.floats())
def test_a_range_holds_what_it_says(low, size, above, below, value):
    """Open and closed ends, for every float there is, NaN and the infinities included."""
    high = low + size
    inside = low < value < high or (value == low and not above) or (value == high and not below)
    assert (Range(low, high, above, below).fault(value) == "") == inside


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        r"(query_key_value|query|key_value|attention/output|mlp/(up|gate|down))/kernel$",
        "^(?!(lora|head|pooler)/)",
        r"^decoder/.*block_\d+/.*kernel$",
        r"block_(0|1|2|1\d)/",
        "(a|b|c)*x",
    ],
)
def test_patterns_that_people_write_are_taken(pattern):
    """Alternatives, look-ahead, and a few open repetitions."""
    assert Pattern().fault(pattern) == ""


@pytest.mark.parametrize(
    "pattern",
    [
        r"^(\w+/?\w*)*!$",
        "(a+)+$",
        "(a?){40}b",
        "a?" * 40 + "b",
        "(a|a)*b",
        "(ab|a)" * 40 + "c",
        ".*.*.*.*.*.*x",
        "((a*)*){0}(b*)*c",
        r"(?=(\w+)+!)",
        "(?:(?:a{1,100}){1,100}){1,100}b",
        "[z-a]",
        "(",
        "a{1,99999999999}",
        "(" * 3000,
    ],
)
def test_a_pattern_that_would_not_end_is_refused_at_once(pattern):
    """Nested repetitions, long rows of choices and what is no pattern; the check itself is quick."""
    began = time.perf_counter()
    assert Pattern().fault(pattern)
    assert time.perf_counter() - began < 1


@given(st.text(st.sampled_from("ab/.*+?()|[]{}2,^$\\w"), max_size=30))
def test_any_text_is_judged_as_a_pattern(text):
    """Whatever is given, there is an answer and no exception."""
    assert isinstance(patterns.fault(text), str)
