"""The range of every number in a configuration: stated once, in the type of its field, and checked in one place.

A field is annotated with one of the types below, `dropout: Below1`, or with a range of its own,
`Annotated[int, Range(1, 4096)]`. `check` compares all fields of a configuration, and of those inside it, with their
types and ranges. It is called where a configuration comes in: from the command line, from a run's record, from a
published model, and where an experiment or a model is built.
"""

import dataclasses
import functools
import os
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from research.core import patterns
from research.core.errors import UserError

Place = Callable[[str], str]
LONGEST = 10_000  # items of a tuple
SHOWN = 60  # characters of a value
PLAIN = (bool, int, float, str, tuple, list, type(None))
C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`. NaN is in no range.

    >>> Range(0, 1, above=True).fault(0)
    'give a number above 0, up to 1'
    >>> Range(0, 1).fault(0.5)
    ''

    Attributes:
        low: the lowest number.
        high: the highest.
        above: whether `low` itself is out.
        below: whether `high` itself is out.
    """

    low: int | float
    high: int | float
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        low, high = (f"{end:.10g}" if isinstance(end, float) else str(end) for end in (self.low, self.high))
        if self.above:
            return f"above {low} and below {high}" if self.below else f"above {low}, up to {high}"
        return f"from {low} to below {high}" if self.below else f"from {low} to {high}"

    def fault(self, value: Any) -> str:
        """Returns what to give instead of a number, and nothing where it is in the range."""
        above = value > self.low if self.above else value >= self.low
        below = value < self.high if self.below else value <= self.high
        return "" if above and below else f"give a number {self}"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The text is a regular expression that compiles, and whose search ends."""

    def fault(self, value: Any) -> str:
        """Returns what is wrong with a pattern, and nothing where it can be used."""
        found = patterns.fault(value)
        return found and f"as a pattern it {found}"


@dataclasses.dataclass(frozen=True)
class Unicode:
    """The text can be written in UTF-8, as bytes of another encoding on a command line cannot."""

    def fault(self, value: Any) -> str:
        """Returns what to give instead of a text, and nothing where it can be written."""
        lone = any("\ud800" <= character <= "\udfff" for character in value)
        return "give text in UTF-8" if lone else ""


@dataclasses.dataclass(frozen=True)
class File:
    """The text names a regular file where it names anything that is there: no folder, pipe or device."""

    def fault(self, value: Any) -> str:
        """Returns what to give instead of a path, and nothing where it can be read."""
        # Not `Path`, which raises an error for a name that is too long.
        there, regular = os.path.exists(value), os.path.isfile(value)  # noqa: PTH110, PTH113
        return "give a regular file" if there and not regular else ""


# Whole numbers.
Seed = Annotated[int, Range(0, 2**32 - 1)]  # of a larger one, JAX takes the lower 32 bits: two seeds would be one
Count = Annotated[int, Range(1, 2**31 - 1)]
Limit = Annotated[int, Range(0, 2**31 - 1)]  # 0: none, or all
Period = Annotated[int, Range(0, 2**31 - 1)]  # in steps; 0: never
Rows = Annotated[int, Range(1, 2**20)]  # of a batch
# Sizes of models: an order of magnitude above the largest there are.
Depth = Annotated[int, Range(1, 1000)]  # Wang et al. 2022, DeepNet
OptionalDepth = Annotated[int, Range(0, 1000)]
Width = Annotated[int, Range(1, 2**20)]
OptionalWidth = Annotated[int, Range(0, 2**20)]
Heads = Annotated[int, Range(1, 2**14)]
OptionalHeads = Annotated[int, Range(0, 2**14)]
Length = Annotated[int, Range(1, 2**24)]  # of a row, or a context, in tokens
Vocabulary = Annotated[int, Range(1, 2**24)]
OptionalVocabulary = Annotated[int, Range(0, 2**24)]
# Numbers.
Fraction = Annotated[float, Range(0, 1)]
Below1 = Annotated[float, Range(0, 1, below=True)]  # dropout, a decay, a fraction held out
Between0And1 = Annotated[float, Range(0, 1, above=True, below=True)]
Above0 = Annotated[float, Range(0, 1e9, above=True)]
AtLeast0 = Annotated[float, Range(0, 1e9)]
Finite = Annotated[float, Range(-1e9, 1e9)]
Epsilon = Annotated[float, Range(1e-30, 1)]  # a smaller one is 0 where it is squared or in half precision
# Text.
Regex = Annotated[str, Pattern()]
FilePath = Annotated[str, File()]
Prose = Annotated[str, Unicode()]


def option(field: str) -> str:
    """Returns a field as it is called on the command line.

    >>> option("model.num_kv_heads")
    '--model.num-kv-heads'
    """
    return f"--{field.replace('_', '-')}"


def check(config: C, place: Place = option, *, within: str = "") -> C:
    """Returns a configuration whose fields have their types and are in their ranges, as all inside it.

    A class may state what its fields must fulfil together in a method `check()`, which is called as well.

    Args:
        config: a frozen dataclass.
        place: what a field, such as `model.depth`, is called where it is to be fixed.
        within: the field that the configuration is the value of, such as `model`.

    Raises:
        UserError: the first field that does not fit, with its value and what to give.
    """
    cls: Any = type(config)
    check_fields(cls, {name: getattr(config, name) for name in field_types(cls)}, place, within=within)
    together = getattr(config, "check", None)
    if callable(together):
        together()
    return config


def check_fields(cls: type, values: Mapping[str, Any], place: Place, *, within: str = "") -> None:
    """Raises UserError for the first of a class's values, by field, that does not fit; see `check`."""
    for name, hint in field_types(cls).items():
        # The options of a field that is called '' stand among those of the configuration that it is in.
        unnamed = any(getattr(each, "name", None) == "" for each in getattr(hint, "__metadata__", ()))
        path = within if unnamed else f"{within}.{name}" if within else name
        if name in values:
            _check_value(values[name], hint, path, place)


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Returns the types of a class's fields with what is annotated; none where one names what is not there."""
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError:  # a class inside a function, with annotations kept as text
        return {}
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _check_value(value: Any, hint: Any, path: str, place: Place, verb: str = "is") -> None:
    hint, conditions = _unwrapped(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        fitting = [each for each in arguments if _has_type(value, _unwrapped(each)[0])]
        if not fitting:
            raise _refusal(value, f"give {' or '.join(map(_named, arguments))}", f"{place(path)} {verb}")
        _check_value(value, fitting[0], path, place, verb)
        return
    if not _has_type(value, hint):
        raise _refusal(value, f"give {_named(hint)}", f"{place(path)} {verb}")
    if isinstance(value, tuple):
        if len(value) > LONGEST:
            raise UserError(f"{place(path)} has {len(value)} items: give {LONGEST} or fewer.")
        items = (arguments[0],) * len(value) if arguments[1:] == (...,) else arguments
        for index, (item, of_item) in enumerate(zip(value, items, strict=False)):
            # A part of a configuration has options of its own; what is no part is one option with all others.
            is_part = dataclasses.is_dataclass(item)
            _check_value(item, of_item, f"{path}.{index}" if is_part else path, place, verb="has")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        check(value, place, within=path)
    for condition in conditions:
        if isinstance(condition, Range | Pattern | Unicode | File) and (fault := condition.fault(value)):
            raise _refusal(value, fault, f"{place(path)} {verb}")


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Returns a type without what it is annotated with, and that."""
    return (get_args(hint)[0], hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, whatever is inside it; a whole number is a number, a truth value is neither."""
    if hint is None or hint is type(None):
        return value is None
    if get_origin(hint) is Literal:
        return any(type(value) is type(each) and value == each for each in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if get_origin(hint) is tuple:
        sizes = get_args(hint)
        return isinstance(value, tuple) and (sizes[1:] == (...,) or len(value) == len(sizes))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return isinstance(value, hint)
    if getattr(hint, "_is_protocol", False):  # a part of an experiment, of whatever class
        return not isinstance(value, PLAIN)
    return True


def _named(hint: Any) -> str:
    """Returns what a type is called in a sentence."""
    hint, _ = _unwrapped(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if get_origin(hint) is tuple:
        sizes = get_args(hint)
        return f"a tuple of {'any length' if sizes[1:] == (...,) else f'{len(sizes)} items'}"
    names: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "nothing",
    }
    names |= {None: "nothing", Path: "a path"}
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")


def _refusal(value: Any, advice: str, beginning: str) -> UserError:
    try:
        shown = repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        shown = "a number of thousands of digits"
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return UserError(f"{beginning} {shown}: {advice}.")
