"""Under contract: every number of every configuration states its range, and its default lies in it."""

import dataclasses
import importlib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import research
from research.core import ranges
from research.core.ranges import Pattern, Range
from research.launch.discovery import modules as experiments

ROOT = Path(research.__path__[0]).parent
CONDITIONS = (Range, Pattern)


def dataclasses_here() -> Iterator[type]:
    """Every dataclass of the project, but for those of programs with packages of their own and builders of data."""
    for package in ("research", "experiments"):
        for file in sorted((ROOT / package).rglob("*.py")):
            source = file.read_text(encoding="utf-8")
            if "@dataclasses.dataclass" not in source or "import apache_beam" in source or "datasets" in file.parts:
                continue
            module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
            yield from (
                each
                for each in vars(module).values()
                if dataclasses.is_dataclass(each) and isinstance(each, type) and each.__module__ == module.__name__
            )


def parts(hint: Any, conditions: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The innermost types that a type is made of, each with what it is annotated with."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        yield from parts(inner[0], hint.__metadata__)
    elif typing.get_origin(hint) is typing.Literal or not inner:
        yield hint, conditions
    else:
        for each in inner if isinstance(inner, tuple) else ():
            yield from parts(each) if not isinstance(each, list) else ()


def configurations() -> list[type]:
    """What a user or a record gives values to: options, what builds something, and the parts of these."""
    here = list(dataclasses_here())
    hints = {each: ranges.field_types(each) for each in here}

    def is_root(cls: type) -> bool:
        annotated = [each for hint in hints[cls].values() for _, conditions in parts(hint) for each in conditions]
        return cls.__name__ == "Options" or hasattr(cls, "build") or any(isinstance(e, CONDITIONS) for e in annotated)

    found = list(filter(is_root, here))
    for cls in found:
        inside = {part for hint in hints.get(cls, {}).values() for part, _ in parts(hint) if isinstance(part, type)}
        found += [part for part in here if part in inside and part not in found]
    return found


CONFIGURATIONS = configurations()


def test_the_configurations_are_found():
    """A class of each kind is among them, so that the next tests mean something."""
    names = {cls.__name__ for cls in CONFIGURATIONS}
    assert {"Experiment", "GPT", "Rotary", "LoRA", "TextData", "Cleaning", "Sampling", "Beam", "MeshConfig"} <= names
    assert {"Schedule", "OptimizerGroup", "Explanation", "Processes", "EvaluatedSplit", "ScheduleFree"} <= names


def check_ranges_are_stated(cls: type) -> None:
    """A field of numbers without a range is believed whatever it says: a depth of 10^9, a rate that is no number."""
    for name, hint in ranges.field_types(cls).items():
        for part, conditions in parts(hint):
            stated = [each for each in conditions if isinstance(each, Range)]
            advice = "take one of research/core/ranges.py, such as Count or AtLeast0"
            assert part not in (int, float) or stated, (
                f"{cls.__name__}.{name} has a {part.__name__} without a range: {advice}"
            )


@pytest.mark.parametrize("cls", CONFIGURATIONS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_number_states_its_range(cls):
    """In every configuration, be it in an experiment or not."""
    check_ranges_are_stated(cls)


@pytest.mark.parametrize("cls", CONFIGURATIONS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_a_default_fits_its_field(cls):
    """What a configuration has by itself is in its own ranges, and of its own types."""
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    ranges.check_fields(cls, defaults, ranges.option)


def inside(value: Any) -> Iterator[Any]:
    """A configuration and those in it."""
    if dataclasses.is_dataclass(value):
        yield value
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    for each in value if isinstance(value, list | tuple) else ():
        yield from inside(each)


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_fits_its_ranges(name):
    """The configurations that come with the project, those of seven and seventy billion parameters too."""
    config = importlib.import_module(f"experiments.{name}").CONFIG
    for cls in sorted({type(each) for each in inside(config)}, key=str):
        check_ranges_are_stated(cls)
    ranges.check(config)
