"""Fine-tuning: a model that starts from pretrained parameters, of a published model or of a run of this project.

`PretrainedModel` stands in an experiment's configuration where any model does; it takes its sizes from its source, and
a new head where one is asked for. `Assembly.initial_state` puts the parameters in place.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from research.core import configs, trees
from research.core.errors import UserError
from research.core.ranges import Below1
from research.core.shapes import Params, Spec
from research.core.terminal import print_message
from research.data.dataset import Tokenizer
from research.data.text import tokenizers
from research.hub.pretrained import Described, describe, load_pretrained, load_tokenizer, writing
from research.models.generation_rules import GenerationRules
from research.models.model import Model
from research.models.wrappers.lora import BRANCH, LoRA, merged, with_lora
from research.runs import checkpoints
from research.runs.directory import CHECKPOINTS, RECORD, find, read_record


class LoadReport(NamedTuple):
    """Parameters to start from, and what was loaded: paths of this model's, or names of the source's."""

    params: Params
    loaded: Sequence[str]
    new: Sequence[str]
    """initialised, since the source has none"""
    left: Sequence[str]
    """in the source, and not needed"""
    remarks: Sequence[str] = ()
    """sentences for the user"""


def combined(params: Params, reports: Sequence[LoadReport]) -> LoadReport:
    """Returns one report of parameters that came from several sources, one after another."""
    loaded = dict.fromkeys(path for report in reports for path in report.loaded)
    new = [path for report in reports for path in report.new if path not in loaded]
    left = [name for report in reports for name in report.left]
    return LoadReport(params, list(loaded), new, left, [remark for report in reports for remark in report.remarks])


@dataclasses.dataclass(frozen=True)
class PretrainedTokenizer:
    """The tokenizer of a published model or of a run, in place of a `TokenizerConfig`."""

    source: str = ""
    """as of `PretrainedModel`"""
    revision: str = ""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Returns the tokenizer, which the texts do not change; raises UserError where the source has none."""
        if not self.source:
            raise UserError("Nothing says whose tokenizer to take: give --data.tokenizer.source what the model has.")
        if is_run(self.source):
            return tokenizers.load(find(self.source) / "tokenizer.json")
        return load_tokenizer(self.source, self.revision or None)


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """Which parameters to start from, and what becomes of the model."""

    source: str = ""
    """a folder of a published model or of an adapter, its name on the Hugging Face hub, "package:NAME/FOLDER", a run
    directory, or an experiment's folder such as runs/bert_pretrain, for its newest finished run"""
    revision: str = ""
    """on the hub: a branch, tag or commit"""
    head: Literal["", "masked", "sequence", "token", "span", "embedding"] = ""
    """the head of an encoder ('': as the source has it); what the source lacks of it is initialised"""
    pooling: Literal["", "first", "mean"] = ""
    """what stands for an example, its first position or the mean of all ('': as the source has it)"""
    pooler: bool = True
    """whether a dense layer and tanh come before a classifier"""
    dropout: Below1 = 0.1
    lora: LoRA = LoRA()
    """low-rank updates instead of training all (rank 0: none); see research/models/wrappers/lora.py"""

    def build(self, spec: Spec) -> Model:
        """Builds the model for `spec.size` labels or tokens; raises UserError where the source is no such model."""
        described = self._described
        # A language model may have more ids than its tokenizer, for the sake of sizes.
        outputs = spec.size if self.head else max(spec.size, described.outputs)
        model = writing(described.config.build(dataclasses.replace(spec, outputs=outputs)), described.rules, outputs)
        return with_lora(model, self.lora) if self.lora.rank else model

    @property
    def context(self) -> int:
        """The longest text."""
        return self.configuration.context

    @property
    def vocabulary(self) -> int:
        """The token ids that the model knows."""
        described = self._described
        return getattr(described.config, "vocabulary", 0) or described.outputs

    @property
    def configuration(self) -> Any:
        """The configuration of the model itself; raises UserError where the source cannot be read."""
        return self._described.config

    @functools.cached_property
    def _described(self) -> Described:
        """What the source says of its model, the configuration as asked for; read once, as it may lie on the hub."""
        if not self.source:
            raise UserError("Nothing says what to start from: give --model.source a folder, a hub name or a run.")
        if is_run(self.source):
            described = self._of_run()
        else:
            described = describe(self.source, self.revision or None, self.head or None)
        config = described.config
        changes = {"head": self.head, "pooling": self.pooling, "pooler": self.pooler, "dropout": self.dropout}
        fields = {field.name for field in dataclasses.fields(config)}
        if self.head and "head" not in fields:
            raise UserError(f"A {type(config).__name__} has no choice of heads: leave out --model.head {self.head}.")
        changed = {name: value for name, value in changes.items() if name in fields and value != ""}
        return described._replace(config=dataclasses.replace(config, **changed))

    def start(self, params: Params, shardings: Any, mesh: Mesh, spec: Spec) -> LoadReport:
        """Returns `params`, initial ones on their devices, with the source's in their places.

        The outputs of a head that is kept are put in the order of the data's classes, by name.

        Raises:
            UserError: a parameter of the source has another shape.
        """
        values, left = self._values(mesh)
        shapes, placed = trees.flatten(params), trees.flatten(shardings)
        for path in sorted(values.keys() & shapes.keys()):
            if values[path].shape != shapes[path].shape and path.startswith("head/"):
                del values[path]  # of other labels
            elif values[path].shape != shapes[path].shape:
                raise UserError(
                    f"Parameter {path!r} is of shape {list(values[path].shape)} in {self.source} and of "
                    f"{list(shapes[path].shape)} here: use the data's tokenizer that it was trained with."
                )
        order, remarks = self._order(spec, kept=any(path.startswith("head/") for path in values))
        if order is not None:
            heads = {path: leaf for path, leaf in values.items() if path.startswith("head/")}
            values |= {path: jnp.take(leaf, order, axis=-1) for path, leaf in heads.items()}

        def choose(path: str, drawn: Array) -> Array:
            return jax.device_put(values[path], placed[path]) if path in values else drawn

        new = [path for path in shapes if path not in values]
        adapters = all(path.startswith(f"{BRANCH}/") for path in new)
        if len(new) == len(shapes) or (new and not (self.head or adapters)):
            raise UserError(f"{self.source} lacks the parameters {', '.join(new[:3])}: name the model it is of.")
        return LoadReport(
            trees.map_with_path(choose, params),
            loaded=[path for path in shapes if path in values],
            new=new,
            left=[*left, *(path for path in values if path not in shapes)],
            remarks=remarks,
        )

    def _order(self, spec: Spec, *, kept: bool) -> tuple[np.ndarray | None, list[str]]:
        """Returns the source's output of each class of the data, None where they are as they are, and a remark."""
        theirs = [label.casefold() for label in self._described.labels]
        ours = [label.casefold() for label in spec.labels]
        if not (kept and theirs and len(ours) == spec.outputs and self.head in ("", "sequence", "token")):
            return None, []
        if sorted(theirs) == sorted(ours):
            return (None, []) if theirs == ours else (np.array([theirs.index(label) for label in ours]), [])
        names, found = (", ".join(each[:10]) for each in (self._described.labels, spec.labels))
        return None, [
            f"the head of {self.source} is kept, which was trained for the classes {names}; yours are {found}"
        ]

    def _values(self, mesh: Mesh) -> tuple[dict[str, Any], Sequence[str]]:
        """Returns the source's parameters by path, and the names of what it has besides."""
        if is_run(self.source):
            run = find(self.source)
            step = checkpoints.newest_good(run / CHECKPOINTS, print_message)
            if step is None:
                raise UserError(f"{self.source} has no good checkpoint to start from: train it first.")
            params, model = checkpoints.load_params(run / CHECKPOINTS, step), _model_of(run)
            learned = merged(jax.tree.map(jnp.asarray, params), getattr(model, "lora", LoRA()))
            return trees.flatten(learned), ()
        loaded = load_pretrained(self.source, revision=self.revision or None, head=self.head or None, mesh=mesh)
        values = trees.flatten(loaded.params)
        return {path: leaf for path, leaf in values.items() if path not in loaded.new}, loaded.left

    def _of_run(self) -> Described:
        run = find(self.source)
        model, tokenizer = _model_of(run), read_record(run).get("data", {}).get("tokenizer") or {}
        if isinstance(model, PretrainedModel):
            try:
                return model._described._replace(labels=_labels_of(run))
            except RecursionError:
                raise UserError(f"{self.source} starts from a run that starts from it: name another source.") from None
        if "vocabulary" not in tokenizer:
            raise UserError(f"{self.source} has no tokenizer, so that its model reads no text: name another run.")
        tokens = int(tokenizer["vocabulary"])
        if "vocabulary" in {field.name for field in dataclasses.fields(model)} and not model.vocabulary:
            model = dataclasses.replace(model, vocabulary=tokens)
        return Described(model, tokens, GenerationRules(), _labels_of(run))


def is_run(source: str) -> bool:
    """Whether a source is a run of this project; raises UserError where it looks like one that is not there."""
    path = Path(source)
    if source == "latest" or (path / RECORD).exists() or any(path.glob(f"*/{RECORD}")):
        return True
    if source.startswith("runs/"):
        raise UserError(f"There is no run in {source}: train it first, with 'python -m experiments.{path.name}'.")
    return False


def resolved(config: Any) -> Any:
    """Returns a configuration that names the runs it takes parameters and tokenizers from by their directories.

    What `latest` or an experiment's folder means changes with every run; a record must not.
    """
    if isinstance(config, PretrainedModel | PretrainedTokenizer):
        return dataclasses.replace(config, source=str(find(config.source))) if is_run(config.source) else config
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changed = {name: new for name, part in parts.items() if (new := resolved(part)) is not part}
    return dataclasses.replace(config, **changed) if changed else config


def _labels_of(run: Path) -> tuple[str, ...]:
    return tuple(read_record(run).get("data", {}).get("class_names", ()))


def _model_of(run: Path) -> Any:
    model = getattr(configs.from_json(read_record(run)["config"]), "model", None)
    if not dataclasses.is_dataclass(model):
        raise UserError(f"{run / RECORD} names no model: restore it from a copy, or name another run.")
    return model
