"""`load_pretrained` and `save_pretrained`: a published model as a configuration, parameters and a pure function.

Parameters come one by one, the largest first, from the file to the devices that they belong on, so that the host never
holds more of them than the devices do, plus one. Nothing that a file says is used before it is checked.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from research.core import ranges, trees
from research.core.errors import UserError, listed, quoted
from research.core.files import write_atomic
from research.core.mesh import MeshConfig, shard
from research.core.shapes import Params, Spec
from research.data.dataset import Tokenizer
from research.data.text.tokenizers import Subwords
from research.hub import gguf
from research.hub.adapters import SETTINGS, TENSORS, Adapted
from research.hub.families import by_path, family_of_config, family_of_file
from research.hub.family import Tensor
from research.hub.generation import GENERATION, described_rules, read_rules, rules_of, within
from research.hub.locate import find_model
from research.hub.matching import check_finite, check_tied, match
from research.hub.sentence_modules import MODULES, POOLING, check_modules
from research.hub.tokenizer import open_tokenizer, save_tokenizer
from research.hub.weights import Weights, aligned, open_folder, read_json, write_folder
from research.models.generation_rules import GenerationRules
from research.models.model import Apply, Model

VOCABULARIES = [
    "*.json",
    "*.txt",
    "*.jinja",
    "*.model",
    "*.spm",
    "*.tiktoken",
]  # files of tokenizers, and their settings
FILES = [*VOCABULARIES, "*.safetensors"]  # what is fetched of a published model
MOST_OUTPUTS = 1 << 28
SHARD = 5_000_000_000  # bytes of a file, as other libraries have it


class Pretrained(NamedTuple):
    """A model with its parameters, ready to use.

    Attributes:
        config: as for an experiment; `config.build(Spec(outputs))` gives `model` again.
        params: in float32.
        apply: `apply(params, batch, ...)[0]` are the outputs.
        tokenizer: None where the files hold none that can be read here.
        model: `apply` with the rest: sharding rules and, for language models, the step-by-step form.
        outputs: what the model is built for: tokens of the vocabulary, or labels.
        new: paths of the parameters that the file does not have, newly drawn for the head that was asked for.
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
            "package:NAME/FOLDER" for a folder that an installed Python package brings. A folder may also hold a LoRA
            adapter of the PEFT library: its base is loaded, and the updates are merged into it.
        revision: for the hub: a branch, tag or commit.
        head: what the model shall end in, for families with several heads; by default what the file is made for. What
            the file lacks of a head asked for is newly drawn.
        outputs: for a head asked for: its labels (by default as many as config.json names).
        mesh: the devices to put the parameters on, by the model's sharding rules; by default the first device.

    Raises:
        UserError: the source cannot be found, trusted or understood.
    """
    path, adapter = find_model(source, revision, FILES)
    weights: Weights
    if path.is_dir():
        described = _folder_described(path)
        family, weights, tokenizer = family_of_file(described, path), open_folder(path), open_tokenizer(path)
    else:
        described, weights = gguf.open_file(path)
        family, tokenizer = family_of_file(described, path), weights.tokenizer()
    if adapter is not None:
        described, weights = adapter.described(described), adapter.over(weights, family)
        tokenizer = open_tokenizer(adapter.folder) or tokenizer
    if outputs is not None and head is None:
        raise UserError(f"The number of outputs, {outputs}, belongs to a head: name the head as well.")
    with _understanding(path):
        config, count = _checked(family.configuration(described, head), path)
        count = outputs or count
        rules = _rules(path, described)
        model, tokenizer = writing(config.build(Spec(count)), rules, count), _fitted(tokenizer, rules, described)
        tokens = {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)}
        shapes = jax.eval_shape(lambda batch: model.init(jax.random.key(0), batch), tokens)
    ties = getattr(config, "tied", False) or described.get("tie_word_embeddings") is True
    sources = match(family, config, weights, trees.flatten(shapes), path, head=head, ties=ties)
    left = tuple(sorted(set(weights.shapes) - {name for _, names in sources.values() for name in names}))
    unknown = [name for name in left if not any(re.search(rf"(^|\.)({each})$", name) for each in family.ignored)]
    if unknown:
        raise UserError(f"{path} has tensors that its configuration does not explain: {listed(unknown, 3)}.")
    if isinstance(weights, Adapted):
        weights.check_used(sources, left if head is None else ())
    if getattr(config, "tied", False):
        check_tied(family, config, weights, path)
    mesh = mesh or MeshConfig().build(jax.devices()[:1])
    params = _read(model, shapes, sources, weights, mesh, path)
    new = tuple(sorted(set(trees.flatten(shapes)) - set(sources)))
    return Pretrained(config, params, model.apply, tokenizer, model, count, new, left)


class Described(NamedTuple):
    """What a model's files say of it, without its parameters."""

    config: Any
    """as of `Pretrained`"""
    outputs: int
    rules: GenerationRules
    labels: tuple[str, ...]
    """names of the classes of its head, by number; empty where they have none"""


def describe(source: str | Path, revision: str | None = None, head: str | None = None) -> Described:
    """Returns what `load_pretrained` builds without reading parameters; raises UserError likewise."""
    path, adapter = find_model(source, revision, ["config.json", GENERATION, MODULES, POOLING, SETTINGS, TENSORS])
    described = _folder_described(path) if path.is_dir() else gguf.open_file(path)[0]
    if adapter is not None:
        described = adapter.described(described)
    with _understanding(path):
        config, count = _checked(family_of_file(described, path).configuration(described, head), path)
        config.build(Spec(count))  # which refuses sizes that are impossible
        return Described(config, count, _rules(path, described), _labels(described))


def writing(model: Model, rules: GenerationRules, vocabulary: int) -> Model:
    """Returns the model with rules of how it writes, as far as its tokens go."""
    if model.decoding is None:
        return model
    return model._replace(decoding=model.decoding._replace(rules=within(rules, vocabulary)))


def _rules(path: Path, described: Mapping[str, Any]) -> GenerationRules:
    return read_rules(described, read_json(path / GENERATION) if (path / GENERATION).exists() else None)


def _fitted(tokenizer: Subwords | None, rules: GenerationRules, described: Mapping[str, Any]) -> Subwords | None:
    """Returns the tokenizer as the model can take it.

    It knows the token that begins what the model writes, which the targets of data begin with, and the rows that the
    model has, where it has more tokens itself: JAX would take the last row for these.
    """
    if tokenizer is None:
        return None
    rows = described.get("vocab_size") or (described.get("text_config") or {}).get("vocab_size") or 0
    if type(rows) is int and 0 < rows < tokenizer.vocabulary_size:
        _check_same_model(tokenizer, rows)
        target = tokenizer.target and dataclasses.replace(tokenizer.target, rows=rows)
        tokenizer = dataclasses.replace(tokenizer, rows=rows, target=target)
    token = None if rules.start is None else tokenizer.token_of(rules.start)
    return dataclasses.replace(tokenizer, special={**tokenizer.special, "start": token}) if token else tokenizer


def _check_same_model(tokenizer: Subwords, rows: int) -> None:
    """Raises UserError where tokens of the vocabulary itself have no row; added ones need one where a text has them."""
    vocabulary = tokenizer.pieces or tokenizer.trained.get_vocab(with_added_tokens=False)
    beyond = {number for number in vocabulary.values() if number >= rows}
    if unknown := beyond - tokenizer.trained.get_added_tokens_decoder().keys():
        raise UserError(
            f"The tokenizer has {len(unknown):,} tokens from {min(unknown)} on for which the model, of {rows} rows, "
            "has none: take both from the same place."
        )


def _labels(described: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the classes by number; none where config.json has only the names that mean nothing."""
    given = described.get("id2label") or {}
    named = {int(number): str(label) for number, label in given.items()}
    labels = tuple(named[number] for number in range(len(named)))
    return () if labels == tuple(f"LABEL_{number}" for number in range(len(labels))) else labels


def load_tokenizer(source: str | Path, revision: str | None = None) -> Subwords:
    """Returns the tokenizer that `load_pretrained` would; raises UserError likewise, and where there is none."""
    path, adapter = find_model(source, revision, [*VOCABULARIES, TENSORS])
    tokenizer = open_tokenizer(adapter.folder) if adapter else None
    if tokenizer is None:
        tokenizer = open_tokenizer(path) if path.is_dir() else gguf.open_file(path)[1].tokenizer()
    if path.is_dir() and (path / "config.json").exists():
        described = read_json(path / "config.json")
        tokenizer = _fitted(tokenizer, _rules(path, described), described)
    if tokenizer is None:
        raise UserError(f"{source} holds no tokenizer that can be read here: name a model that comes with one.")
    return tokenizer


def _folder_described(path: Path) -> dict[str, Any]:
    """Returns config.json, and how a model of the sentence-transformers library makes one vector of a text."""
    described = dict(read_json(path / "config.json"))
    if (path / MODULES).exists():
        check_modules(path / MODULES)
    if (path / POOLING).exists():
        modes = read_json(path / POOLING)
        chosen = [name for name, on in modes.items() if name.startswith("pooling_mode_") and on is True]
        described["sentence_pooling"] = " and ".join(chosen)
    return described


def _checked(found: tuple[Any, int], path: Path) -> tuple[Any, int]:
    """Returns a configuration and its outputs; raises UserError where a number has another type or is out of range."""
    config, count = found
    if type(count) is not int or not 0 < count <= MOST_OUTPUTS:
        raise UserError(f"The model in {path} would have {quoted(count)} tokens or labels: correct its config.json.")
    return ranges.check(config, lambda field: f"In the description of the model in {path}, {field}"), count


@contextmanager
def _understanding(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(
            f"The description of the model in {path} lacks a field or has an odd one: {quoted(error, 300)}."
        ) from None


def save_pretrained(
    folder: str | Path,
    config: Any,
    params: Params,
    tokenizer: Tokenizer | None = None,
    *,
    labels: Sequence[str] = (),
    rules: GenerationRules | None = None,
    limit: int = SHARD,
) -> None:
    """Writes a folder that `load_pretrained` and the transformers library read.

    Args:
        folder: made where it is not there; files of the same names are replaced.
        config: the model's.
        params: the model's; written in float32, one tensor after another.
        tokenizer: a pretrained one, or one of ours trained on data (byte-pair encoding or WordPiece).
        labels: names of the classes of a head that has labels, by number; by default they are LABEL_0 and so on.
        rules: how the model writes, for one that does; by default what its tokenizer says.
        limit: the most bytes of a file of parameters.

    Raises:
        UserError: the model or tokenizer has no form there, or the folder cannot be written.
    """
    family = family_of_config(config)
    if not isinstance(tokenizer, Subwords | None):
        raise UserError(
            f"A tokenizer of {type(tokenizer).__name__} has no form in the Hugging Face library: train the model on a "
            "byte-pair or WordPiece tokenizer, or leave it out."
        )
    leaves = trees.flatten(params)
    described = family.to_json(config, {path: tuple(leaf.shape) for path, leaf in leaves.items()})
    if labels and len(labels) == len(described.get("id2label", ())):
        described["id2label"] = {str(number): label for number, label in enumerate(labels)}
        described["label2id"] = {label: number for number, label in enumerate(labels)}
    writes = config.build(Spec(described["vocab_size"])).decoding is not None
    if rules is None or rules == GenerationRules():
        rules = rules_of(tokenizer, described)
    generation = described_rules(rules) if writes else {}
    described |= generation
    target = Path(folder)

    def written() -> Iterator[tuple[str, np.ndarray]]:
        for tensor in by_path(family.tensors(config), leaves).values():
            array = trees.fetch(leaves[tensor[0].path])
            for name, part in zip(tensor[0].names, tensor[0].split(array), strict=True):
                yield name, np.ascontiguousarray(part, np.float32)

    write_folder(target, written(), limit)
    if tokenizer is not None:
        save_tokenizer(target, tokenizer)
    write_atomic(target / "config.json", json.dumps({**described, "dtype": "float32"}, indent=2) + "\n")
    if writes:
        generation = {name: value for name, value in generation.items() if value is not None}
        write_atomic(target / GENERATION, json.dumps(generation, indent=2) + "\n")


def _read(
    model: Model, shapes: Any, sources: Mapping[str, tuple[Tensor, list[str]]], weights: Weights, mesh: Mesh, file: Path
) -> Params:
    """Reads and places the parameters; raises UserError for one that has numbers that are none, or infinite.

    Those that are not stored as they are here come first, the largest before others, since each needs room for a copy
    on its way; the rest is used where it was read, as far as JAX can.
    """
    leaves, shardings = trees.flatten(shapes), trees.flatten(shard(mesh, model.sharding, shapes))
    placed: dict[str, jax.Array] = {}
    if missing := leaves.keys() - sources.keys():

        def drawn() -> dict[str, jax.Array]:  # compiled, so that nothing else is drawn
            params = trees.flatten(model.init(jax.random.key(0), {"inputs": jnp.zeros((1, 1), jnp.int32)}))
            return {path: params[path] for path in missing}

        placed = jax.jit(drawn, out_shardings={path: shardings[path] for path in missing})()
    stored = weights.shapes

    def order(path: str) -> tuple[bool, int]:
        return stored[sources[path][1][0]] == leaves[path].shape, -leaves[path].size

    for path in sorted(sources, key=order):
        tensor, names = sources[path]
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite, and is refused
            array = aligned(tensor.join([weights.read(name) for name in names]), np.float32)
        check_finite(array, names, weights, file)
        placed[path] = jax.make_array_from_callback(array.shape, shardings[path], array.__getitem__)
    return trees.map_with_path(lambda path, _: placed[path], shapes)
