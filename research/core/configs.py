"""Configurations as JSON and back: frozen dataclasses that name their own type.

`run.json` stores what ran as plain JSON; `from_json` rebuilds the very dataclasses, and imports nothing but
dataclasses of this project and of packages that the caller trusts, so that reading a stranger's run cannot run a
stranger's code, and no value whose type or range is not that of its field.
"""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from research.core import ranges
from research.core.errors import UserError

PACKAGES = ("research", "experiments")
DEEPEST = 30  # parts of a configuration inside one another


C = TypeVar("C", bound=type)
T = TypeVar("T")


def config_protocol(protocol: C) -> C:
    """Lets a runtime-checkable protocol of configurations, which are dataclasses, say which classes are its subclasses.

    The command line makes options of a field whose value has a subclass of the field's type. A protocol with members
    other than methods has no subclasses unless it says which: those with all of its public members.
    """
    members = {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}

    def has_members(cls: type, other: type) -> bool:
        return members <= {*dir(other), *getattr(other, "__dataclass_fields__", ())}

    setattr(protocol, "__subclasshook__", classmethod(has_members))  # noqa: B010
    return protocol


def built(config: Any, gives: type[T], *arguments: Any) -> T:
    """Returns what the `build` of a part of an experiment gives, which may be anyone's code.

    Raises:
        UserError: it has no such method, or one of other arguments, or that gives something else.
    """
    name, wanted = type(config).__name__, f"{gives.__module__}.{gives.__name__}"
    build = getattr(config, "build", None)
    if not callable(build):
        raise UserError(f"{name} has no method `build`: define one that returns a {wanted}.")
    try:
        inspect.signature(build).bind(*arguments)
    except TypeError as error:
        listed = ", ".join(type(argument).__name__ for argument in arguments) or "nothing"
        raise UserError(f"`{name}.build` cannot be called with {listed} ({error}): change its arguments.") from None
    result = build(*arguments)
    if not isinstance(result, gives):
        raise UserError(f"`{name}.build` gives {type(result).__name__}: let it return a {wanted}.")
    return result


def type_name(config: Any) -> str:
    """Returns the importable name of a configuration's class, also when its module runs as a program."""
    module = type(config).__module__
    if module == "__main__":
        spec = sys.modules["__main__"].__spec__
        module = spec.name if spec else module
    return f"{module}.{type(config).__qualname__}"


def to_json(config: Any) -> Any:
    """Turns nested frozen dataclasses of numbers, strings and tuples into JSON values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
        return {"type": type_name(config), **fields}
    if isinstance(config, tuple | list):
        return [to_json(item) for item in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"a configuration holds dataclasses, tuples, numbers and strings, not {type(config).__name__}")


def from_json(value: Any, field: str = "", trusted: Sequence[str] = ()) -> Any:
    """Inverse of `to_json`.

    Args:
        value: a configuration in its JSON form.
        field: where it stands in another one, such as `model.lora`.
        trusted: packages or modules besides this project's whose classes may be imported.

    Raises:
        UserError: a named class or field does not exist here, or a value has another type than its field or is out of
            its range.
    """
    if field.count(".") > DEEPEST:
        raise UserError(f"The recorded configuration has {DEEPEST} parts inside one another: restore it from a copy.")
    if not field and not isinstance(value, dict):
        raise UserError(f"The recorded configuration is {type(value).__name__}, and no object: restore it from a copy.")
    if isinstance(value, list):
        return tuple(from_json(item, f"{field}.{index}", trusted) for index, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    cls = _resolve(value.get("type", ""), trusted)
    fields = {
        name: from_json(item, f"{field}.{name}" if field else name, trusted)
        for name, item in value.items()
        if name != "type"
    }
    unknown = fields.keys() - {each.name for each in dataclasses.fields(cls)}
    if unknown:
        raise UserError(
            f"The recorded configuration gives {value['type']} the fields {sorted(unknown)}, which it does not have "
            "here; use the version of this project that wrote the run."
        )
    ranges.check_fields(cls, fields, _recorded, within=field)
    for name, hint in ranges.field_types(cls).items():
        if name in fields and not _builds_as(fields[name], hint):
            wrong = f"{_recorded(f'{field}.{name}' if field else name)} is of the type {type_name(fields[name])}"
            raise UserError(
                f"{wrong}, which is no {hint.__name__}: use the version of this project that wrote the run."
            )
    try:
        config = cls(**fields)
    except TypeError as error:
        raise UserError(
            f"The recorded configuration does not fill {value['type']} ({error}); use the version of this project "
            "that wrote the run."
        ) from None
    return ranges.check(config, _recorded, within=field)


def _builds_as(config: Any, protocol: Any) -> bool:
    """Whether a configuration has a `build` that can be called as that of a protocol; anything does as other types."""
    expected, found = getattr(protocol, "build", None), getattr(config, "build", None)
    if not getattr(protocol, "_is_protocol", False) or expected is None:
        return True
    _, *arguments = inspect.signature(expected).parameters
    try:
        inspect.signature(found).bind(*arguments)  # type: ignore[arg-type]
    except TypeError:  # there is none, or it takes others
        return False
    return True


def _recorded(field: str) -> str:
    return f"The field {field!r} of the recorded configuration"


def _resolve(name: Any, trusted: Sequence[str]) -> Any:
    module, _, cls_name = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    if not is_within(module, PACKAGES + tuple(trusted)):
        own = module.split(".")[0]
        advice = (
            f"if {own} is a package of your own, add --trust {own}, which runs its code"
            if own.isidentifier() and own != "__main__"
            else "define it in a module instead of a notebook or script"
        )
        raise UserError(
            f"The recorded configuration names the type {name!r}; only types of {' and '.join(PACKAGES)} are rebuilt: "
            f"{advice}."
        )
    try:
        cls = getattr(importlib.import_module(module), cls_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"The recorded configuration names {name!r}, which is not in this project ({error}).") from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(f"The recorded configuration names {name!r}, which is not a configuration class.")
    return cls


def completed(value: Any, config: Any) -> Any:
    """Returns a recorded configuration with the fields that a class has got since, at their defaults.

    Args:
        value: the recorded configuration in its JSON form.
        config: one of today, whose parts of the same types know the fields.
    """
    if isinstance(value, list) and isinstance(config, tuple):
        return [completed(item, config[index]) if index < len(config) else item for index, item in enumerate(value)]
    if not (isinstance(value, dict) and dataclasses.is_dataclass(config) and value.get("type") == type_name(config)):
        return value
    known = {field.name: field for field in dataclasses.fields(config)}
    new = {
        name: to_json(field.default)
        for name, field in known.items()
        if name not in value and field.default is not dataclasses.MISSING
    }
    return {**new, **{name: completed(item, getattr(config, name, None)) for name, item in value.items()}}


def is_within(module: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of the packages, or inside one.

    >>> is_within("mine.models", ["mine"]), is_within("mines", ["mine"])
    (True, False)
    """
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def own_modules(value: Any) -> list[str]:
    """Returns the modules outside this project whose classes a configuration in JSON form names."""
    types = {str(item) for name, item in flatten_config(value) if name.rpartition(".")[2] == "type"}
    modules = {name.rpartition(".")[0] for name in types}
    return sorted(module for module in modules if not is_within(module, PACKAGES))


def flatten_config(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted field, value) pairs of a configuration's JSON form."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flatten_config(item, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from flatten_config(item, f"{prefix}.{index}")
    else:
        yield prefix, value


def differences(left: Any, right: Any) -> dict[str, tuple[Any, Any]]:
    """Returns {field: (left, right)} of the fields in which two configurations in JSON form differ."""
    first, second = dict(flatten_config(left)), dict(flatten_config(right))
    names = list(first) + [name for name in second if name not in first]
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}
