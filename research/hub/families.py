"""The families of pretrained models that are known here, and which of them a model is of."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.core.errors import UserError, quoted
from research.hub.bert import BERT_FAMILY
from research.hub.family import Family, Json, Tensor
from research.hub.gpt2 import GPT2_FAMILY
from research.hub.llama import LLAMA_FAMILY
from research.hub.marian import MARIAN_FAMILY
from research.hub.t5 import T5_FAMILY
from research.hub.weights import UNQUANTISED

DEPTHS: tuple[str, ...] = ("n_layer", "n_layers", "num_hidden_layers", "num_layers")
DEPTHS += ("num_decoder_layers", "encoder_layers", "decoder_layers")
MOST_BLOCKS = 999
FAMILIES: tuple[Family, ...] = (GPT2_FAMILY, LLAMA_FAMILY, BERT_FAMILY, T5_FAMILY, MARIAN_FAMILY)


def family_of_file(described: Json, path: Path) -> Family:
    """Returns the family that a config.json names; raises UserError where it is not known, or wants code of its own."""
    if "auto_map" in described:
        raise UserError(f"{path} names code in auto_map, and code of others is not run here.")
    if quantised := described.get("quantization_config") or described.get("compression_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, Mapping) else quantised
        raise UserError(
            f"{path} holds weights quantised by {quoted(method)} (quant_method in config.json), which are not read "
            f"here: {UNQUANTISED}."
        )
    _check_sizes(described, path)
    kind = described.get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    known = [each for family in FAMILIES for each in family.model_types]
    raise UserError(f"{path} has the model_type {quoted(kind)}, which is not known here; known are {', '.join(known)}.")


def _check_sizes(described: Json, path: Path) -> None:
    """Raises UserError for a depth that no list of blocks may be as long as, and for numbers that are none."""
    inner = described.get("text_config")
    for name, value in {**(inner if isinstance(inner, Mapping) else {}), **described}.items():
        if name in DEPTHS and not (type(value) is int and 1 <= value <= MOST_BLOCKS):
            raise UserError(
                f"config.json in {path} sets {name!r} to {quoted(value)}: give a number from 1 to {MOST_BLOCKS}."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.json in {path} sets {name!r} to {value}, which is no number: correct it.")


def family_of_config(config: Any) -> Family:
    """Returns the family of a configuration of ours; raises UserError where it has none."""
    for family in FAMILIES:
        if isinstance(config, family.config):
            return family
    known = ", ".join(family.config.__name__ for family in FAMILIES)
    raise UserError(f"A {type(config).__name__} has no form in the Hugging Face library; those that have: {known}.")


def by_path(tensors: list[Tensor], leaves: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """Groups tensors by their parameter's path; raises UserError where those are not the paths of `leaves`."""
    grouped: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        grouped.setdefault(tensor.path, []).append(tensor)
    odd = grouped.keys() ^ leaves.keys()
    if odd:
        raise UserError(f"The parameters are not those of the configuration; {min(odd)!r} is in one of them only.")
    return grouped
