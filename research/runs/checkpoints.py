"""Checkpoints: the one file that knows orbax. Asynchronous, atomic, verified, and pruned to the last and the best.

Orbax does not checksum array data, so beside each `checkpoints/STEP/` stands `STEP.json`, written once the save is
complete: the SHA-256 of every file. A checkpoint without it, or with a byte changed, is passed over with a message.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as orbax

from research.core import trees
from research.core.errors import UserError
from research.core.files import read_bytes, regular_size, write_atomic
from research.core.json_files import LIMIT_BYTES, parse_json
from research.runs import schema
from research.runtime import processes

FIXED = "fixed"  # the folder, beside those of the steps, of what no step changes


class Saver:
    """Saves states in the background, one at a time; keeps the `keep_last` newest, the newest periodic and the best.

    The best is the one with the lowest `score` among those saved; a failed save is reported and harms no other.
    """

    def __init__(self, folder: Path, *, keep_last: int, report: Callable[[str], None]):
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keep_last = keep_last
        self.report = report
        self.saved: int | None = None
        """the step last saved, completely"""
        self.cause = ""
        """of the last failure"""
        # Orbax logs, with a trace from each of its threads, the very errors that it raises; `report` says them once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Starts saving; returns once the state is copied, so that the next step may overwrite it.

        Of a step that is saved already only the metadata are written again.

        Args:
            step: completed steps.
            state: a pytree of arrays.
            metadata: JSON values kept beside it. `score` decides which is the best: lower is better (an accuracy counts
                negative), None is no score. `periodic` tells that an uninterrupted run has this checkpoint too.
        """
        self.wait()
        path = self.folder / f"{step:08d}"
        if processes.broadcast_from_first(_read_manifest(path) is not None):
            self._note(path, {"step": step, **metadata})
            return
        # One process that cannot write would keep the others waiting for minutes: a full disk is foreseen.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) if jax.process_count() > 1 else 0
        if size and processes.broadcast_from_first(shutil.disk_usage(self.folder).free < size):
            self.failed(step, f"its {size:,} bytes are not free")
            return
        if processes.is_main_process():
            _remove(path)
        try:
            response = orbax.save_async(path, _without_empty(state))
        except (OSError, ValueError) as error:
            self.failed(step, _first_line(error))
            return
        self._pending = self._thread.submit(self._finish, response, path, {"step": step, **metadata})

    def wait(self, seconds: float | None = None) -> None:
        """Waits for the save under way, at most `seconds` where given; reports it if it failed."""
        if self._pending is None:
            return
        try:
            error = self._pending.exception(seconds)
        except TimeoutError:
            return
        self._pending = None
        if error is not None:
            self.cause = _first_line(error)
            self.report(f"a checkpoint could not be written ({self.cause}); training goes on and will try again")

    def failed(self, step: int, cause: str) -> None:
        """Reports that the checkpoint of a step is not written, and why."""
        self.cause = cause
        self.report(f"checkpoint of step {step} failed ({cause}); training goes on")

    def _finish(self, response: Any, path: Path, metadata: dict[str, Any]) -> None:
        try:
            response.result()  # on every process alike: orbax waits for all
            if processes.is_main_process():
                write_atomic(_manifest_path(path), _canonical({**metadata, "files": _file_digests(path)}))
                self._prune()
        except BaseException:
            if processes.is_main_process():  # on a full disk its remains would keep the next from being written
                _remove_unfinished(self.folder)
                if _read_manifest(path) is None:
                    _remove(path)
            raise
        self.saved = metadata["step"]

    def _note(self, path: Path, metadata: dict[str, Any]) -> None:
        self.saved = metadata["step"]
        manifest = _read_manifest(path)
        if processes.is_main_process() and manifest is not None:
            try:
                write_atomic(_manifest_path(path), _canonical({**manifest, **metadata}))
            except UserError as error:
                self.report(f"the score of step {self.saved} is not noted, training goes on: {error}")

    def _prune(self) -> None:
        manifests = {path: manifest for path in _checkpoint_paths(self.folder) if (manifest := _read_manifest(path))}
        kept = set(sorted(manifests)[-self.keep_last :])
        kept |= set(sorted(path for path, manifest in manifests.items() if manifest.get("periodic"))[-1:])
        top = best(self.folder)
        kept |= {path for path in manifests if int(path.name) == top}
        for path in manifests.keys() - kept:
            _remove(path)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def newest_good(folder: Path, report: Callable[[str], None], *, periodic: bool = False) -> int | None:
    """Returns the newest (periodic) step whose files are all as they were written; reports every damaged one."""
    for path in reversed(_checkpoint_paths(folder)):
        if periodic and not (_read_manifest(path) or {}).get("periodic"):
            continue
        problem = _problem(path)
        if problem is None:
            return int(path.name)
        report(f"checkpoint of step {int(path.name)} is not used: {problem}")
    return None


def discard_remains(folder: Path, step: int) -> None:
    """Removes what a save or a removal that was cut off has left, and damaged checkpoints.

    Args:
        folder: of the checkpoints.
        step: the one that the run continues from, 0 for none. Any later one was passed over as damaged; left here, it
            would count as the newest when old ones are pruned.
    """
    for path in _checkpoint_paths(folder):
        if int(path.name) > step or _read_manifest(path) is None:
            _remove(path)
    _remove_unfinished(folder)


def best(folder: Path) -> int | None:
    """Returns the step of the best-scored checkpoint, if any has a score."""
    scores = {path: (_read_manifest(path) or {}).get("score") for path in _checkpoint_paths(folder)}
    scored = {path: score for path, score in scores.items() if score is not None and math.isfinite(score)}
    return int(min(scored, key=lambda path: scored[path]).name) if scored else None


def load(
    folder: Path, step: int, abstract: Any, *, verified: bool = False, partial: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Loads a checkpoint into the shapes and shardings of `abstract`; returns (state, metadata).

    Args:
        folder: of the checkpoints.
        step: which one.
        abstract: shapes, types and shardings.
        verified: `newest_good` has just returned it, so that its files need not be read once more.
        partial: `abstract` names only some of the parts that were saved, and the others are not read.

    Raises:
        UserError: the files are damaged, or they hold another model (names the first parameter that differs).
    """
    path = folder.absolute() / f"{step:08d}"
    problem = None if verified else _problem(path)
    if problem is not None:
        raise UserError(f"The checkpoint {path} cannot be used: {problem}; choose another step or train again.")
    stored = _without_empty(abstract)
    _check_same_model(path, stored, partial=partial)
    context = orbax.Context()
    context.pytree.loading.partial_load = partial
    with context:
        state = _with_empty(orbax.load(path, stored), abstract)
    manifest = _read_manifest(path)
    return state, {} if manifest is None else manifest


def _without_empty(tree: Any) -> Any:
    """Returns a tree with None for arrays without any number, such as optimizers keep: orbax stores none of those."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, tree)


def _with_empty(stored: Any, abstract: Any) -> Any:
    """Returns what `_without_empty` took from a tree of the form of `abstract` put back."""

    def leaf(wanted: Any, found: Any) -> Any:
        return found if wanted.size else jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)

    return jax.tree.map(leaf, abstract, stored)


def load_params(folder: Path, step: int) -> dict[str, Any]:
    """Returns the parameters that evaluation uses, in NumPy, of a checkpoint that `newest_good` has just returned."""
    path = folder.absolute() / f"{step:08d}"
    state = orbax.load(path, _numpy_form(path))
    fixed = folder.absolute() / FIXED
    parts = [state["params"] if state.get("average") is None else state["average"], state.get("variables") or {}]
    return trees.merge(*parts, orbax.load(fixed, _numpy_form(fixed)) if fixed.exists() else {})


def _numpy_form(path: Path) -> Any:
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), orbax.metadata(path).metadata)


def save_fixed(folder: Path, tree: Any) -> None:
    """Saves, once for a whole run, what no step changes; raises UserError where it cannot be written."""
    path = folder.absolute() / FIXED
    if not jax.tree.leaves(tree) or processes.broadcast_from_first(_problem(path) is None):
        return
    if processes.is_main_process():
        _remove(path)
    try:
        orbax.save(path, _without_empty(tree))
        if processes.is_main_process():
            write_atomic(_manifest_path(path), _canonical({"files": _file_digests(path)}))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be written ({error}): free space there, or choose another --runs DIR."
        ) from None


def load_fixed(folder: Path, abstract: Any) -> Any:
    """Loads what `save_fixed` has saved; raises UserError as `load`."""
    if not jax.tree.leaves(abstract):
        return abstract
    path = folder.absolute() / FIXED
    if problem := _problem(path):
        raise UserError(f"The fixed parameters {path} cannot be used: {problem}; train again.")
    stored = _without_empty(abstract)
    _check_same_model(path, stored)
    return _with_empty(orbax.load(path, stored), abstract)


def _check_same_model(path: Path, abstract: Any, *, partial: bool = False) -> None:
    saved = trees.flatten(orbax.metadata(path).metadata)
    expected = trees.flatten(abstract)
    names = expected if partial else [*expected, *saved]
    for name in sorted(names, key=lambda name: not name.startswith("params/")):  # what a reader knows comes first
        found, wanted = _form(saved.get(name)), _form(expected.get(name))
        if found != wanted:
            raise UserError(
                f"The checkpoint {path} is of another model: {name!r} is {found} there and {wanted} in "
                "this configuration; use the configuration that the run was trained with."
            )


def _form(leaf: Any) -> str:
    return "absent" if leaf is None else f"{np.dtype(leaf.dtype)} of shape {list(leaf.shape)}"


def _checkpoint_paths(folder: Path) -> list[Path]:
    found = folder.absolute().glob("[0-9]*") if folder.exists() else ()
    return sorted(path for path in found if path.name.isascii() and path.name.isdecimal())


def _manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _canonical(manifest: Mapping[str, Any]) -> str:
    """The manifest as text that carries its own digest, so that a changed bit in it shows as well."""
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n"


def _read_manifest(path: Path) -> dict[str, Any] | None:
    place = _manifest_path(path)
    try:
        text = read_bytes(place, LIMIT_BYTES).decode()
        manifest = parse_json(text.partition("\n")[0], str(place), own=True)
        schema.check(manifest, schema.MANIFEST, place)
    except (UserError, UnicodeDecodeError):
        return None
    return manifest if text == _canonical(manifest) else None


def _file_digests(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): _file_digest(file) for file in files}


def _file_digest(path: Path) -> str:
    regular_size(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _problem(path: Path) -> str | None:
    manifest = _read_manifest(path)
    if manifest is None:
        return f"{_manifest_path(path).name} is missing or damaged (a save that was cut off leaves none)"
    found, right = _file_digests(path), manifest["files"]
    for name in sorted(found.keys() | right.keys()):
        if name not in found:
            return f"its file {name} is missing"
        if found[name] != right.get(name):
            return f"its file {name} has changed since it was written"
    return None


def _remove(path: Path) -> None:
    _manifest_path(path).unlink(missing_ok=True)  # first, so that a half-removed checkpoint never looks good
    shutil.rmtree(path, ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(path, ignore_errors=True)
