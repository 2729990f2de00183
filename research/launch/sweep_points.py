"""The points of a sweep: what `--grid` and `--seeds` say, all combinations of listed values, and random draws.

Pure functions of texts, the experiment's fields and a seed; `research.launch.sweep` makes jobs of the points. A grid
is a list of values, or a range from which `draw` takes some.
"""

import dataclasses
import difflib
import math
import re
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from research.core import configs
from research.core.errors import UserError
from research.core.renames import OPTIONS
from research.runs.resumable import computes
from research.train.experiment import Experiment

MOST_JOBS = 1000
DIGITS = 4  # that tell drawn numbers apart


@dataclasses.dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, both included; whole numbers where both are of the type int."""

    low: int | float
    high: int | float

    @property
    def whole(self) -> bool:
        """Whether only whole numbers count."""
        return isinstance(self.low, int)

    @property
    def logarithmic(self) -> bool:
        """Whether the logarithm is drawn uniformly: of positive numbers, if the ends are a factor 10 apart or more."""
        return not self.whole and self.low > 0 and self.high >= 10 * self.low * (1 - 1e-9)  # 10 but for rounding

    def written(self, value: int | float) -> str:
        """Writes a number of the interval, in as many digits as tell it from its neighbours in a table.

        >>> Interval(1e-4, 1e-2).written(0.00123456), Interval(1000.0, 1000.1).written(1000.0123456)
        ('0.001235', '1000.0123')
        """
        if self.whole or not value:
            return str(value)
        scale = min(abs(value), self.high - self.low)
        rounded = round(value, DIGITS - 1 - math.floor(math.log10(scale)))
        return str(min(max(rounded, self.low), self.high))


Values = Sequence[str] | Interval
Grid = Mapping[str, Values]


def fields_of(experiment: Experiment) -> dict[str, Any]:
    """Returns {field: value} of an experiment, the fields named with dots."""
    known = configs.flatten_config(configs.to_json(experiment))
    return {field: value for field, value in known if field.rpartition(".")[2] != "type"}


def read_grid(texts: Sequence[str], experiment: Experiment) -> dict[str, Values]:
    """Reads FIELD=VALUE,VALUE,... and FIELD=LOW..HIGH texts.

    Raises:
        UserError: the experiment does not have the field, it is given twice, or its values cannot be read.
    """
    grid: dict[str, Values] = {}
    fields = fields_of(experiment)
    for text in texts:
        name, equals, values = text.partition("=")
        field = name.strip().replace("-", "_")
        if not equals or not all(value.strip() for value in values.split(",")):
            raise UserError(f"--grid {text} gives no values: write it as --grid optimizer.learning_rate=1e-3,3e-4.")
        if field not in fields and (new := OPTIONS.get(f"--{field.replace('_', '-')}")):
            raise UserError(f"The field {field!r} is now called {new.removeprefix('--')!r}: give that instead.")
        if field not in fields:
            raise UserError(f"The experiment has no field {name!r}{nearest(field, list(fields))}.")
        if not computes(field):
            raise UserError(f"The field {field!r} changes nothing that a run computes: it cannot be swept.")
        if field == "seed" or field in grid:
            raise UserError(f"--grid {field} is given twice: name all its values at once, and seeds with --seeds.")
        grid[field] = read_values(field, values, number_type(experiment, field))
    return grid


def read_values(field: str, text: str, number: type[int] | type[float] | None) -> Values:
    """Reads "VALUE,VALUE,...", or of a field of numbers "LOW..HIGH"; raises UserError for a range that is none.

    >>> read_values("model.depth", "2,4", int), read_values("model.depth", "2..8", int)
    (['2', '4'], Interval(low=2, high=8))
    """
    values = [value.strip() for value in text.split(",")]
    if number is None or not any(".." in value for value in values):
        return values
    low, _, high = text.partition("..")
    try:
        interval = Interval(number(low), number(high))
        width = float(interval.high) - float(interval.low)
    except (ValueError, OverflowError):
        form = "whole numbers, such as 2..8" if number is int else "numbers, such as 1e-4..1e-2"
        raise UserError(f"--grid {field}={text} is no range: write it as LOW..HIGH, two {form}.") from None
    if not (width > 0 and math.isfinite(width)):
        raise UserError(f"--grid {field}={text} is no range: its first number is to be below its second.")
    return interval


def number_type(experiment: Experiment, field: str) -> type[int] | type[float] | None:
    """Returns float or int, the type of a field; None where it is no single number."""
    *parts, name = field.split(".")
    inside: Any = experiment
    for part in parts:
        inside = inside[int(part)] if isinstance(inside, tuple) else getattr(inside, part)
    hint = get_type_hints(type(inside)).get(name)
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return float if float in kinds else int if int in kinds else None


def read_seeds(text: str) -> list[int]:
    """Reads seeds such as "0..2", "0,3,5" or "0..2,7", ends included; raises UserError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\.\.(\d{1,10}))?\s*", part)
        found = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not found:
            raise UserError(f"--seeds {text} is not a list of seeds: write it as 0..2 or 0,3,5.")
        if len(seeds) + found.stop - found.start > MOST_JOBS:
            raise UserError(f"--seeds {text} are more than {MOST_JOBS} seeds: give fewer.")
        seeds.extend(found)
    return seeds


def draw(grid: Grid, draws: int, seed: int) -> Iterator[tuple[str, ...]]:
    """Draws points: listed values and whole numbers uniformly, other numbers as `Interval.logarithmic` says.

    A pure function of the seed in which each field has random numbers of its own: more draws begin with the same
    points, and a further field changes none of the others. The numbers are NumPy's, since JAX would take the memory of
    an accelerator from the jobs.

    >>> list(draw({"model.depth": ["2", "4"], "optimizer.clip": Interval(0.5, 1.5)}, 2, seed=0))
    [('2', '1.453'), ('2', '0.6531')]
    """
    columns = []
    for field, values in grid.items():
        uniform = np.random.default_rng([seed, zlib.crc32(field.encode())]).random(draws)
        columns.append([value_at(values, float(fraction)) for fraction in uniform])
    return zip(*columns, strict=True)


def value_at(values: Values, fraction: float) -> str:
    """Returns the value at a fraction, from 0 to below 1, of listed values or an interval."""
    if not isinstance(values, Interval):
        return values[int(fraction * len(values))]
    low, high = values.low, values.high
    if values.whole:
        return values.written(min(int(low) + int(fraction * (high - low + 1)), int(high)))
    if values.logarithmic:
        return values.written(math.exp(math.log(low) + fraction * (math.log(high) - math.log(low))))
    return values.written(low + fraction * (high - low))


def as_arguments(field: str, value: str, default: Any) -> list[str]:
    """Returns the words that give a field a value: a switch for a truth value, one word for each item of a tuple."""
    if not isinstance(default, bool):
        return [f"--{field}", *value.split()]
    if value.lower() not in ("true", "false"):
        raise UserError(f"The field {field!r} is true or false, not {value!r}.")
    parents, _, last = f".{field}".rpartition(".")
    return [f"--{parents[1:]}{'.' if parents else ''}{'' if value.lower() == 'true' else 'no-'}{last}"]


def nearest(name: str, names: Sequence[str]) -> str:
    """Returns the words that name the most similar of some names, nothing where there are none."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0)
    return f": the nearest is {near[0]!r}" if near else ""
