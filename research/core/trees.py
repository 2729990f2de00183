"""Pytrees seen as flat tables of paths, and rules that give every path exactly one value.

Paths look like `block_0/attention/query/kernel`. Sharding, optimizer and weight-decay rules are all lists of
(regular expression, value); `match_rules` refuses a parameter that none or several of them match, so that a
new layer cannot silently go unsharded or undecayed.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.core.errors import UserError


def flatten(tree: Any) -> dict[str, Any]:
    """Returns {path: leaf} in the tree's own order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def map_with_path(function: Any, tree: Any) -> Any:
    """Applies `function(path, leaf)` to every leaf and keeps the structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )


def select(tree: Any, keep: Callable[[str], bool]) -> dict[str, Any]:
    """Returns the nested dictionary of the leaves whose path `keep` accepts; a branch without any is left out.

    >>> select({"norm": {"scale": 1, "mean": 2}, "head": {"mean": 3}}, lambda path: path.endswith("scale"))
    {'norm': {'scale': 1}}
    """

    def selected(node: Any, path: str) -> Any:
        if not isinstance(node, Mapping):
            return node if keep(path) else None
        branches = {name: selected(child, f"{path}/{name}" if path else name) for name, child in node.items()}
        kept = {name: branch for name, branch in branches.items() if branch is not None}
        return kept or None

    return selected(tree, "") or {}


def merge(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dictionary with the leaves of all parts: the inverse of `select` by disjoint predicates.

    >>> merge({"norm": {"scale": 1}}, {}, {"norm": {"mean": 2}})
    {'norm': {'scale': 1, 'mean': 2}}

    Raises:
        ValueError: two parts have the same leaf.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        for name, branch in part.items():
            if name not in merged:
                merged[name] = branch
            elif isinstance(branch, Mapping) and isinstance(merged[name], Mapping):
                merged[name] = merge(merged[name], branch)
            else:
                raise ValueError(f"two parts of the tree have {name!r}")
    return merged


def match_rules(rules: Sequence[tuple[str, Any]], tree: Any, *, what: str) -> Any:
    """Returns a tree like `tree` whose leaves are the value of the one rule that matches their path.

    Args:
        rules: (pattern, value) pairs; a pattern is searched for anywhere in the path.
        tree: any pytree.
        what: the kind of rule, and where it is given, for the error message.

    Raises:
        UserError: a path matched by no rule or by more than one.
    """

    def value(path: str, _: Any) -> Any:
        matches = [(pattern, value) for pattern, value in rules if re.search(pattern, path)]
        if len(matches) != 1:
            found = "no rule" if not matches else "the rules " + ", ".join(repr(pattern) for pattern, _ in matches)
            raise UserError(
                f"Parameter {path!r} is matched by {found} for {what}; exactly one of "
                f"{[pattern for pattern, _ in rules]} must match it: fix the patterns."
            )
        return matches[0][1]

    return map_with_path(value, tree)


def abstract_like(tree: Any, shardings: Any) -> Any:
    """Returns the shapes, types and shardings of a tree, such as a checkpoint is restored into."""
    return jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), tree, shardings)


def fetch(leaf: Any) -> np.ndarray:
    """Returns an array on the host, whole; every process must ask where its parts lie on several of them."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def digest(tree: Any) -> str:
    """Returns the SHA-256 of the paths, types, shapes and bytes of all leaves, fetched one after another."""
    flat: Mapping[str, Any] = flatten(tree)
    sha = hashlib.sha256()
    for path, leaf in sorted(flat.items()):
        array = fetch(leaf)
        sha.update(f"{path} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
