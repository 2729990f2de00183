"""LoRA adapters in the form of the PEFT library: low-rank updates (Hu et al. 2021) apart from the model they change.

`save_adapter` writes those that were trained here. `load_pretrained` reads a folder of one: `open_adapter` finds the
base and what the adapter changes of its config.json, and `Adapter.over` lays the updates over the base's tensors as
they are read, under the names of the files, so that no family need know of adapters.
"""

import dataclasses
import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.core import trees
from research.core.errors import UserError, quoted
from research.core.files import write_atomic
from research.core.shapes import Params
from research.hub.families import by_path, family_of_config
from research.hub.family import Family, Json, Tensor
from research.hub.weights import Safetensors, Weights, open_file, read_json, write_file
from research.models.wrappers.lora import BRANCH, LoRA

SETTINGS, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # how PEFT calls the model that it wraps
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "FEATURE_EXTRACTION": "Model",
}
HEADS = ("classifier.", "qa_outputs.")  # PEFT always stores these whole
# What plain LoRA has to say, and what changes nothing once it is trained; all else in the settings must be off.
PLAIN = {
    *("peft_type", "base_model_name_or_path", "revision", "task_type", "r", "lora_alpha", "use_rslora", "bias"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern"),
    *("alpha_pattern", "fan_in_fan_out", "lora_dropout", "inference_mode", "init_lora_weights", "peft_version"),
    *("auto_mapping", "parent_library", "megatron_core", "qalora_group_size", "eva_config", "runtime_config"),
}
OFF: tuple[Any, ...] = (None, False, "none", [], {}, 0)


class Update(NamedTuple):
    """A low-rank update of one tensor: the names of its factors in the adapter's file, and its scale."""

    down: str
    up: str
    scale: float


class Adapted:
    """The tensors of a base, some with updates added and some put in place of the base's; as `Weights`."""

    def __init__(
        self,
        base: Weights,
        stored: Safetensors,
        updates: Mapping[str, Update],
        whole: Mapping[str, str],
        inputs_first: bool,
    ) -> None:
        self._base, self._stored, self._updates, self._whole = base, stored, updates, whole
        self._inputs_first = inputs_first

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**self._base.shapes, **{name: self._stored.shapes[own] for name, own in self._whole.items()}}

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        return {**self._base.dtypes, **{name: self._stored.dtypes[own] for name, own in self._whole.items()}}

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor with its update in float32: W + scale B A, transposed where the file has inputs first."""
        if name in self._whole:
            return self._stored.read(self._whole[name])
        array = self._base.read(name)
        if name not in self._updates:
            return array
        update = self._updates[name]
        down, up = (self._stored.read(factor).astype(np.float32) for factor in (update.down, update.up))
        product = np.float32(update.scale) * (up @ down)
        return array.astype(np.float32) + (product.T if self._inputs_first else product)

    def check_used(self, sources: Mapping[str, tuple[Tensor, list[str]]], left: Collection[str]) -> None:
        """Raises UserError where the model cannot be what the adapter makes of its base.

        Args:
            sources: by parameter, the names of the tensors that it is made of.
            left: names of tensors that no parameter needed, though the model is the one that the files describe.
        """
        changed = self._updates.keys() | self._whole.keys()
        unused = sorted(changed & set(left))
        if unused:
            raise UserError(f"The adapter changes {unused[0]}, which the model that its base describes does not have.")
        embedding = sources.get("token_embedding")
        if embedding and "head/kernel" not in sources and changed & set(embedding[1]):
            raise UserError(
                f"The adapter changes {embedding[1][0]}, which in the model here is the output head as well: merge it "
                "with PEFT, and load the folder that that gives."
            )


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter's checked files."""

    folder: Path
    base: str
    """the source of the model that it changes"""
    revision: str | None
    """of the base"""
    settings: Json
    stored: Safetensors

    def described(self, base: Json) -> dict[str, Any]:
        """Returns the config.json of the adapted model: the base's, with the head that the adapter brings."""
        changed = dict(base)
        if self.settings.get("task_type") in TASKS:
            changed["architectures"] = [TASKS[self.settings["task_type"]]]
        heads = ("classifier.weight", "classifier.out_proj.weight")
        labels = [shape[0] for name, shape in self.stored.shapes.items() if shape and name.endswith(heads)]
        if labels and labels[0] != len(base.get("id2label") or ()):
            changed |= {"id2label": None, "num_labels": labels[0]}
        return changed

    def over(self, base: Weights, family: Family) -> Adapted:
        """Returns the base's tensors with the adapter's updates; raises UserError where one does not fit them."""
        updates: dict[str, Update] = {}
        whole: dict[str, str] = {}
        shapes, known = self.stored.shapes, base.shapes
        for name, shape in shapes.items():
            own = name.removeprefix(PREFIX)
            if own.endswith(DOWN):
                module, partner = own.removesuffix(DOWN), name.removesuffix(DOWN) + UP
                target = _found(f"{module}.weight", known)
                if target is None or target in updates or len(shape) != 2 or not shape[0] or partner not in shapes:
                    raise UserError(
                        f"{self.folder} has an update of {quoted(module)}, which is no layer of {self.base}."
                    )
                needed = (shapes[partner][0], shape[1]) if shapes[partner][1:] == shape[:1] else ()
                if known[target] != (needed[::-1] if family.inputs_first else needed):
                    raise UserError(
                        f"{self.folder} has an update of {quoted(module)} of another shape than {self.base} has."
                    )
                updates[target] = Update(name, partner, self._scale(module, shape[0]))
            elif own.endswith(UP) and name.removesuffix(UP) + DOWN in shapes:
                continue
            elif own == name or re.search(r"\.(lora_\w+|base_layer|modules_to_save|token_adapter)(\.|$)", own):
                raise UserError(
                    f"{self.folder} has the tensor {quoted(name)}, which is none of plain LoRA on linear layers."
                )
            else:
                whole[_found(own, known) or own] = name
        return Adapted(base, self.stored, updates, whole, family.inputs_first)

    def _scale(self, module: str, rank: int) -> float:
        """Returns alpha / r, or alpha / sqrt(r) where the settings ask for it (Kalajdzievski 2023)."""
        alphas = self.settings.get("alpha_pattern") or {}
        own = (alpha for key, alpha in alphas.items() if f"^{module}" == key or f".{module}".endswith(f".{key}"))
        return next(own, self.settings["lora_alpha"]) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def _found(name: str, known: Mapping[str, Any]) -> str | None:
    """Returns the base's name for a tensor: the same, or with the wrapper's name before it or left out."""
    if name in known:
        return name
    bare = name.partition(".")[2]
    longer = [each for each in known if each.endswith(f".{name}")]
    return bare if bare in known else longer[0] if len(longer) == 1 else None


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / SETTINGS).is_file()


def open_adapter(folder: Path) -> Adapter:
    """Opens an adapter; raises UserError where it is not plain LoRA, or cannot be trusted."""
    settings = read_json(folder / SETTINGS)
    odd = [name for name, value in settings.items() if name not in PLAIN and value not in OFF]
    odd += [name for name, value in (("bias", "none"), ("peft_type", "LORA")) if settings.get(name, value) != value]
    # Others, such as PiSSA, change the base as well.
    odd += ["init_lora_weights"] if settings.get("init_lora_weights") not in (*OFF, True, "gaussian", "eva") else []
    if odd:
        raise UserError(
            f"{folder / SETTINGS} sets {odd[0]!r} to {quoted(settings[odd[0]])}, which is not plain LoRA: merge the "
            "adapter with PEFT, and load the folder that that gives."
        )
    base, revision, alphas = (settings.get(name) for name in ("base_model_name_or_path", "revision", "alpha_pattern"))
    if not isinstance(base, str) or not isinstance(revision, str | None):
        raise UserError(f"{folder / SETTINGS} names no base: write the model's name or folder there.")
    if not isinstance(settings.get("task_type"), str | None):
        raise UserError(f"{folder / SETTINGS} has a task_type that is no word: fetch it again.")
    check_base(base)
    if not isinstance(alphas, dict | None) or not all(re.fullmatch(r"\^?[\w.]+", key) for key in alphas or ()):
        raise UserError(f"The alpha_pattern in {folder / SETTINGS} is no table of layers' names, and is not read here.")
    for alpha in (settings.get("lora_alpha"), *(alphas or {}).values()):
        if type(alpha) not in (int, float) or not abs(alpha) < 1e9:
            raise UserError(f"{folder / SETTINGS} has the alpha {quoted(alpha)}, which is no number: fetch it again.")
    if (folder / PICKLE).exists() and not (folder / TENSORS).exists():
        raise UserError(
            f"{folder} has its weights in {PICKLE}, a form that can hold code and is not read here: take the adapter "
            "in safetensors."
        )
    return Adapter(folder, base, revision, settings, open_file(folder / TENSORS))


def check_base(base: str) -> None:
    """Raises UserError where an adapter may not name its base like this."""
    if not base or ".." in re.split(r"[/\\]", base):
        raise UserError(
            f"An adapter cannot name {quoted(base)} as its base: give a hub name, or a folder's path without '..'."
        )


def save_adapter(
    folder: str | Path,
    config: Any,
    params: Params,
    lora: LoRA,
    base: str,
    *,
    revision: str | None = None,
    trained: Collection[str] = (),
) -> None:
    """Writes low-rank updates as an adapter that PEFT and `load_pretrained` read.

    The update of a joined kernel becomes one of each part, all with the same A: the products are the same, exactly.

    Args:
        folder: made where it is not there; files of the same names are replaced.
        config: of the model without updates.
        params: with the branch `lora`.
        lora: as they were trained with.
        base: what the transformers library knows the model without updates by: a name on the hub or a folder.
        revision: of the base on the hub.
        trained: paths of other parameters that are not the base's, of the head and pooler alone; they are stored whole.

    Raises:
        UserError: PEFT has no form for this, or the folder cannot be written.
    """
    check_base(base)
    plain = trees.flatten({name: branch for name, branch in params.items() if name != BRANCH})
    family = family_of_config(config)
    described = family.to_json(config, {path: tuple(leaf.shape) for path, leaf in plain.items()})
    task = _task(described["architectures"][0])
    stored: dict[str, np.ndarray] = {}
    for path, (tensor, *_) in by_path(family.tensors(config), plain).items():
        if task == "FEATURE_EXTRACTION":  # of the bare model, whose layers are not called after it
            tensor = tensor._replace(names=tuple(name.partition(".")[2] for name in tensor.names))
        if path in trained or tensor.names[0].startswith(HEADS):
            stored |= _whole(tensor, plain[path])
        stored |= _factors(tensor, trees.flatten(params.get(BRANCH, {})), family.inputs_first)
    targets = [name.removesuffix(DOWN) for name in stored if name.endswith(DOWN)]
    if not targets:
        raise UserError("The model has no low-rank updates: save it whole instead.")
    settings = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "revision": revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": targets,
        "modules_to_save": sorted({_module(name) for name in stored if not name.endswith((DOWN, UP))}) or None,
        "fan_in_fan_out": family.inputs_first,
        "bias": "none",
        "inference_mode": True,
    }
    arrays = {PREFIX + name: np.ascontiguousarray(array, np.float32) for name, array in stored.items()}
    write_file(Path(folder) / TENSORS, arrays)
    write_atomic(Path(folder) / SETTINGS, json.dumps(settings, indent=2) + "\n")


def _whole(tensor: Tensor, leaf: Any) -> dict[str, np.ndarray]:
    """Returns the file's tensors of a parameter that is stored whole."""
    if not tensor.path.startswith(("head/", "pooler/")):
        raise UserError(
            f"{tensor.path!r} was trained besides the low-rank updates, and the adapter can hold a head alone: export "
            "the whole model."
        )
    return dict(zip(tensor.names, tensor.split(trees.fetch(leaf)), strict=True))


def _factors(tensor: Tensor, updates: Mapping[str, Any], inputs_first: bool) -> dict[str, np.ndarray]:
    """Returns A [rank inputs] and B [outputs rank] of each layer that a kernel is made of, where it has an update."""
    if f"{tensor.path}/up_kernel" not in updates:
        return {}
    if not tensor.path.endswith("kernel"):
        raise UserError(f"{tensor.path!r} is no linear layer, and PEFT has another form for its update.")
    down, up = (trees.fetch(updates[f"{tensor.path}/{factor}_kernel"]) for factor in ("down", "up"))
    parts = tensor.split(up)
    downs = down if down.ndim == 3 else [down] * len(parts)  # of scanned blocks, or shared by joined layers
    factors: dict[str, np.ndarray] = {}
    for name, a, b in zip(tensor.names, downs, parts, strict=True):
        module = name.removesuffix(".weight")
        factors |= {module + DOWN: a.T, module + UP: b.T if inputs_first else b}
    return factors


def _task(architecture: str) -> str | None:
    """Returns PEFT's word for what a model of the transformers library does; None where it has none."""
    others = {"CAUSAL_LM": ("CausalLM", "LMHeadModel"), "SEQ_2_SEQ_LM": ("ConditionalGeneration", "MTModel")}
    suffixes = others | {task: (suffix,) for task, suffix in TASKS.items()}
    return next((task for task, endings in suffixes.items() if architecture.endswith(endings)), None)


def _module(name: str) -> str:
    """Returns the module that PEFT stores a tensor with: all of a classifier, which it does by itself, or one layer."""
    return "classifier" if name.startswith("classifier.") else name.rpartition(".")[0]
