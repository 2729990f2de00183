"""Which tensors of a file make which parameters of a model, the names and shapes checked before any is read."""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from research.core.errors import UserError, visible
from research.hub.families import by_path
from research.hub.family import Family, Groups, Tensor
from research.hub.weights import UNQUANTISED, Weights

MOST_NAMES = 3000  # that are compared with one that is missing


def match(
    family: Family,
    config: Any,
    weights: Weights,
    shapes: Mapping[str, Any],
    path: Path,
    *,
    head: str | None,
    ties: bool,
) -> dict[str, tuple[Tensor, list[str]]]:
    """Returns for every parameter how it is made and the names of its tensors in the file, the shapes checked.

    Args:
        family: of the model.
        config: ours.
        weights: of the file.
        shapes: of the parameters, by path.
        path: of the file, for messages.
        head: what was asked for; its parameters may be new.
        ties: whether the file ties head and embedding, so that either may be missing.
    """
    stored = weights.shapes
    names_of = partial(_stored_name, family, stored, family.tied(config) if ties else ())
    matched: dict[str, tuple[Tensor, list[str]]] = {}
    missing: list[str] = []
    wrong: list[str] = []
    for parameter, choices in by_path(family.tensors(config), shapes).items():
        found = [(tensor, [names_of(name) for name in tensor.names]) for tensor in choices]
        tensor, names = next((each for each in found if all(each[1])), found[0])
        stand_in = np.broadcast_to(np.float32(0), shapes[parameter].shape)
        needed = [part.shape for part in tensor.split(stand_in)]
        may_be_new = head is not None and family.new and re.search(family.new, parameter)
        if [stored.get(name) for name in names] == needed:
            matched[parameter] = (tensor, names)
        elif not may_be_new:
            missing += [name for name, there in zip(tensor.names, names, strict=True) if not there]
            wrong += [
                f"{name} is {list(stored[name])}, not {list(shape)}"
                for name, shape in zip(names, needed, strict=True)
                if name in stored and stored[name] != shape
            ]
    for name in (name for _, names in matched.values() for name in names):
        if weights.dtypes[name].kind in "iub?c":
            raise UserError(
                f"{path} has {name} in the type {weights.dtypes[name]}, no fractions, so its weights are quantised "
                f"without a word in config.json: {UNQUANTISED}."
            )
    if missing:
        raise UserError(f"{path} lacks {len(missing)} tensors: {_described(missing, stored)}.")
    if wrong:
        raise UserError(f"{path} has tensors of other shapes than its configuration says: {'; '.join(wrong[:3])}.")
    return matched


def check_tied(family: Family, config: Any, weights: Weights, path: Path) -> None:
    """Raises UserError where a file has two different tensors for one that its configuration ties."""
    names_of = partial(_stored_name, family, weights.shapes, ())
    for group in family.tied(config):
        first, *others = [found for name in group if (found := names_of(name))] or [""]
        for other in others:
            if weights.shapes[first] != weights.shapes[other] or not np.array_equal(
                weights.read(first), weights.read(other)
            ):
                raise UserError(
                    f"{path} ties its head to the embedding (tie_word_embeddings in config.json), but has {first} and "
                    f"{other} with other values: set tie_word_embeddings to false to use both, or remove one of them."
                )


def check_finite(array: np.ndarray, names: Sequence[str], weights: Weights, path: Path) -> None:
    """Raises UserError where a parameter, made of these tensors, has NaN or infinite numbers; it makes no copy."""
    if not array.size or (np.isfinite(array.min()) and np.isfinite(array.max())):
        return
    with np.errstate(over="ignore"):
        odd = [name for name in names if not np.isfinite(weights.read(name).astype(np.float32)).all()]
    raise UserError(
        f"{path} has numbers in {(odd or names)[0]} that are NaN, infinite or too large for float32, so all outputs "
        "would be: fetch it again, or take a checkpoint from before they were so."
    )


def _stored_name(family: Family, stored: Mapping[str, Any], ties: Groups, name: str) -> str:
    """Returns the name that a tensor has in the file; empty where it is not there.

    It may have any of the family's prefixes, and be stored under the name of another one that it is tied to.
    """
    first, *others = family.prefixes
    tied = [other for group in ties if name in group for other in group if other != name]
    for each in (name, *tied):
        names = [each]
        if each.startswith(first):
            names += [other + each.removeprefix(first) for other in others]
        if found := next((one for one in names if one in stored), ""):
            return found
    return ""


def _described(missing: list[str], stored: Mapping[str, Any]) -> str:
    def nearest(name: str) -> str:
        known = [visible(each)[:200] for each in itertools.islice(stored, MOST_NAMES)]
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.3)
        return f"{name} (nearest: {' and '.join(close) or 'none'})"

    return "; ".join(nearest(name) for name in missing[:3]) + ("; ..." if len(missing) > 3 else "")
