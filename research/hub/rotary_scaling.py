"""How positions turn queries and keys, as config.json says it, and back: a `Rotary` of ours.

Version 5 of the transformers library writes one field, `rope_parameters`, and version 4 wrote `rope_theta` and
`rope_scaling`. Both are read; where a file has both, `rope_scaling` counts, as it does there.
"""

import math
from collections.abc import Mapping
from typing import Any

from research.core.errors import UserError, quoted
from research.hub.family import Json, refuse_others, stated
from research.models.layers.rotary import Rotary

BY_LAYER = ("full_attention", "sliding_attention")
WHOLE_HEADS = {"partial_rotary_factor": 1.0}  # the part of a head that turns


def read_rotary(json: Json, base: float) -> Rotary:
    """Returns how all blocks turn; raises UserError for what the model cannot do.

    Args:
        json: config.json.
        base: where it names none.
    """
    given = json.get("rope_scaling") or json.get("rope_parameters") or {}
    if any(isinstance(value, Mapping) for value in given.values()):
        raise UserError("config.json has other rotary positions for each kind of layer, which this model cannot have.")
    both = [value for value in (json.get("rope_theta"), given.get("rope_theta")) if value is not None]
    if both and both[0] != both[-1]:
        raise UserError(f"config.json gives rope_theta twice, as {quoted(both[0])} and {quoted(both[1])}: correct it.")
    return _rotary(given, float(stated(json, "rope_theta", base)), json)


def read_rotary_by_layer(json: Json, base: float, window_base: float) -> tuple[Rotary, Rotary]:
    """Returns how the blocks without and with a window turn, as Gemma 3 says it; raises UserError likewise."""
    given = json.get("rope_parameters") or {}
    if given and not any(name in given for name in BY_LAYER):
        raise UserError(f"rope_parameters in config.json has neither {' nor '.join(BY_LAYER)}: correct it.")
    full, sliding = (given.get(name) or {} for name in BY_LAYER)
    full = {**full, **(json.get("rope_scaling") or {})}
    base = float(stated(json, "rope_theta", base))
    window_base = float(stated(json, "rope_local_base_freq", window_base))
    return _rotary(full, base, json), _rotary(sliding, window_base, json)


def _rotary(given: Mapping[str, Any], base: float, json: Json) -> Rotary:
    refuse_others(json, WHOLE_HEADS)
    refuse_others(given, WHOLE_HEADS)
    base = float(stated(given, "rope_theta", base))
    kind = given.get("rope_type", given.get("type", "default"))
    longest = stated(given, "original_max_position_embeddings", stated(json, "max_position_embeddings", 1))
    original = int(stated(json, "original_max_position_embeddings", longest))
    match kind:
        case "default":
            return Rotary(base)
        case "linear":
            return Rotary(base, "linear", float(given["factor"]))
        case "llama3":
            low, high = float(given["low_freq_factor"]), float(given["high_freq_factor"])
            return Rotary(base, "llama3", float(given["factor"]), original, low, high)
        case "yarn":
            factor = json["max_position_embeddings"] / original if given["factor"] is None else float(given["factor"])
            low, high = float(stated(given, "beta_slow", 1)), float(stated(given, "beta_fast", 32))
            whole = given.get("truncate", True)
            return Rotary(base, "yarn", factor, original, low, high, _attention_factor(given, factor), whole)
        case "dynamic":
            return Rotary(base, "dynamic", float(given["factor"]), int(json["max_position_embeddings"]))
    raise UserError(
        f"The rotary scaling {quoted(kind)} of config.json is none of default, linear, llama3, yarn and dynamic."
    )


def _attention_factor(given: Mapping[str, Any], factor: float) -> float:
    """Returns what YaRN multiplies queries and keys by (Peng et al. 2024, eq. 22), or what the file says."""
    if (found := given.get("attention_factor")) is not None:
        return float(found)

    def recommended(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    scale, scale_of_all = given.get("mscale"), given.get("mscale_all_dim")
    return recommended(scale) / recommended(scale_of_all) if scale and scale_of_all else recommended(1.0)


def rotary_json(rotary: Rotary) -> dict[str, Any]:
    """Returns the entry of `rope_parameters`, which is that of `rope_scaling` as well."""
    found = {"rope_type": "default" if rotary.scaling == "none" else rotary.scaling, "rope_theta": rotary.base}
    if rotary.scaling != "none":
        found["factor"] = rotary.factor
    if rotary.scaling in ("llama3", "yarn"):
        names = ("beta_slow", "beta_fast") if rotary.scaling == "yarn" else ("low_freq_factor", "high_freq_factor")
        found |= dict(zip(names, (rotary.low_frequency_factor, rotary.high_frequency_factor), strict=True))
        found["original_max_position_embeddings"] = rotary.original_context
    if rotary.scaling == "yarn":
        found |= {"attention_factor": rotary.attention_factor, "truncate": rotary.whole_pairs}
    return found
