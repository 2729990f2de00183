"""The contract of a family of pretrained models: how its configuration and tensors map to a model of ours, and back.

A family is one file beside this one, which ends in a constant of type `Family`; `pretrained.py` lists them. What a
tensor needs on its way is a `Tensor`, and most are made by `same`, `transposed` and `joined_heads`.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from research.core.errors import UserError, quoted

Json = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
Word = TypeVar("Word")
Groups = tuple[tuple[str, ...], ...]


class Tensor(NamedTuple):
    """One parameter of ours, and the tensors of the file that it is made of.

    Attributes:
        path: the parameter's, such as `block_0/mlp/up/kernel`.
        names: of the file's tensors, with the first of the family's prefixes where they have one.
        join: makes the parameter of those tensors.
        split: the inverse, for export. It must be made of views (transpose, reshape, slices) and elementwise sums
            alone: applied to a stand-in of the parameter's shape, it tells the shapes that the file must have.
    """

    path: str
    names: tuple[str, ...]
    join: Callable[[Sequence[np.ndarray]], np.ndarray]
    split: Callable[[np.ndarray], Sequence[np.ndarray]]


class Family(NamedTuple):
    """A kind of pretrained model.

    Attributes:
        model_types: the values of `model_type` in config.json that this family reads.
        config: the class of our configuration; its `build(outputs).init` must do with inputs [1 1].
        configuration: config.json, and the head asked for (None: the one that the file's `architectures` name) ->
            our configuration and the outputs that it is built for. It raises UserError for what our model cannot do.
        to_json: our configuration, and the shape of each parameter by path -> config.json, with `model_type` and
            `architectures`. It raises UserError for what the family's form cannot say.
        tensors: our configuration -> every parameter. Where several say the same path, the first whose names the
            file has is read; the first is the one that is written.
        prefixes: what may stand before the tensors' names (the bare model is stored without its wrapper's name);
            the first is the one that `Tensor.names` have and that is written.
        ignored: patterns, matched at the end of a name, of tensors that a file may have and that no parameter needs.
        inputs_first: whether the kernels of linear layers are stored as [inputs outputs], as ours are, and not as
            [outputs inputs].
        tied: our configuration -> groups of names of tensors that are one where the model ties them: a file may have
            any of them. In each group the embedding comes first.
        new: a pattern, searched for in paths, of parameters that a file may lack where a head is asked for: they are
            newly drawn. Empty: none.
    """

    model_types: tuple[str, ...]
    config: type
    configuration: Callable[[Json, str | None], tuple[Any, int]]
    to_json: Callable[[Any, Shapes], dict[str, Any]]
    tensors: Callable[[Any], list[Tensor]]
    prefixes: tuple[str, ...] = ("",)
    ignored: tuple[str, ...] = ()
    inputs_first: bool = False
    tied: Callable[[Any], Groups] = lambda config: ()
    new: str = ""


def same(path: str, name: str) -> Tensor:
    """A tensor stored as we store it: an embedding, a bias, the scale of a norm."""
    return Tensor(path, (name,), lambda parts: parts[0], lambda array: [array])


def transposed(path: str, name: str) -> Tensor:
    """The kernel of a linear layer, which PyTorch stores as [outputs inputs]."""
    return Tensor(path, (name,), lambda parts: parts[0].T, lambda array: [array.T])


def joined_heads(path: str, names: Sequence[str], num_kv_heads: int, shared: Sequence[int]) -> Tensor:
    """The kernel or bias of a joined projection, [inputs outputs] or [outputs], from one tensor for each part of it.

    Args:
        path: the joined parameter's, such as `block_0/attention/query_key_value/kernel`.
        names: of the parts, such as those of query, key and value; [outputs inputs] or [outputs] each.
        num_kv_heads: key and value heads; ours are [num_kv_heads, query heads of one + key + value].
        shared: the heads that each part has in a group: (heads / num_kv_heads, 1, 1) for query, key and value.
    """

    def join(parts: Sequence[np.ndarray]) -> np.ndarray:
        grouped = [part.reshape(num_kv_heads, -1, *part.shape[1:]) for part in parts]
        joined = np.concatenate(grouped, axis=1)
        return joined.reshape(-1, *joined.shape[2:]).T

    def split(array: np.ndarray) -> Sequence[np.ndarray]:
        rows = array.T
        grouped = rows.reshape(num_kv_heads, -1, *rows.shape[1:])
        head = grouped.shape[1] // sum(shared)
        ends = [head * count for count in itertools.accumulate(shared)]
        parts = np.split(grouped, ends[:-1], axis=1)
        return [part.reshape(-1, *rows.shape[1:]) for part in parts]

    return Tensor(path, tuple(names), join, split)


def linear(path: str, name: str) -> list[Tensor]:
    """A linear layer with a bias."""
    return [transposed(f"{path}/kernel", f"{name}.weight"), same(f"{path}/bias", f"{name}.bias")]


def linear_heads(path: str, names: Sequence[str], heads: int) -> list[Tensor]:
    """A joined projection with a bias; each head has all its parts."""
    shared = [1] * len(names)
    return [
        joined_heads(f"{path}/kernel", [f"{name}.weight" for name in names], heads, shared),
        joined_heads(f"{path}/bias", [f"{name}.bias" for name in names], heads, shared),
    ]


def layer_norm(path: str, name: str) -> list[Tensor]:
    """A norm with a bias."""
    return [same(f"{path}/scale", f"{name}.weight"), same(f"{path}/bias", f"{name}.bias")]


def stated(json: Mapping[str, Any], name: str, default: Any) -> Any:
    """Returns the value of a field, and `default` where it is absent or null: 0 is a value.

    >>> stated({"rope_theta": 0, "head_dim": None}, "rope_theta", 1e4), stated({"head_dim": None}, "head_dim", 64)
    (0, 64)
    """
    found = json.get(name)
    return default if found is None else found


def stated_size(json: Json, name: str, default: int) -> int:
    """Returns the value of a field likewise; raises UserError where it is no size."""
    if (found := stated(json, name, default)) in (0, False):
        raise UserError(f"config.json sets {name!r} to {quoted(found)}, and a model has at least 1.")
    return found


def refuse_others(json: Json, allowed: Mapping[str, Any]) -> None:
    """Raises UserError where config.json sets one of these fields to another value than the one given."""
    for name, value in allowed.items():
        if json.get(name, value) not in (value, None):
            raise UserError(f"config.json sets {name!r} to {quoted(json[name])}, which the model here does not have.")


def translated(json: Json, name: str, default: str, values: Mapping[str, Any]) -> Any:
    """Returns our word for the value of a field; raises UserError where we have none."""
    value = json.get(name, default)
    if value not in values:
        raise UserError(f"config.json sets {name!r} to {quoted(value)}, which is none of {', '.join(values)}.")
    return values[value]
