"""Llama, Mistral, Qwen 2, Qwen 3 and the text model of Gemma 3 in Hugging Face's form: all are our `Llama`.

Gemma 3 stores the scale of a norm less 1: it is added on the way in and taken away on the way out.
"""

from typing import Any

import numpy as np

from research.core.errors import UserError
from research.hub.family import Family, Json, Shapes, Tensor, joined_heads, refuse_others, same, stated_size, transposed
from research.hub.rotary_scaling import BY_LAYER, read_rotary, read_rotary_by_layer, rotary_json
from research.models.layers.rotary import Rotary
from research.models.llama import Llama

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
ARCHITECTURES |= {"qwen3": "Qwen3ForCausalLM", "gemma3_text": "Gemma3ForCausalLM"}
# What a file means that leaves out a field.
KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32, "gemma3_text": 4}
CONTEXTS = {"llama": 2048, "mistral": 131_072, "qwen2": 32_768, "qwen3": 32_768, "gemma3_text": 131_072}
# What a model of this family can be set to do that the one here does not.
FIXED = {"attn_logit_softcapping": None, "final_logit_softcapping": None, "use_bidirectional_attention": False}


def configuration(json: Json, head: str | None = None) -> tuple[Llama, int]:
    """Reads config.json; raises UserError for what the model cannot do."""
    if head is not None:
        raise UserError(f"A Llama predicts the next token and has no head {head!r}: leave the head out.")
    if json["model_type"] == "gemma3":
        # What a file leaves out has these values: those of the class Gemma3TextConfig.
        sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208}
        return configuration({**sizes, **json["text_config"], "model_type": "gemma3_text"})
    kind, gemma = json["model_type"], json["model_type"] == "gemma3_text"
    refuse_others(json, FIXED | ({"hidden_activation": "gelu_pytorch_tanh"} if gemma else {"hidden_act": "silu"}))
    heads, depth = json["num_attention_heads"], json["num_hidden_layers"]
    window, global_blocks = _windows(json, depth)
    if gemma:
        head_dim = stated_size(json, "head_dim", 256)
        rotary, window_rotary = read_rotary_by_layer(json, 1e6, 1e4)
    else:
        head_dim = stated_size(json, "head_dim", 128 if kind == "qwen3" else json["hidden_size"] // heads)
        rotary = read_rotary(json, 1e4)
        window_rotary = rotary if window else Rotary()
    config = Llama(
        depth=depth,
        width=json["hidden_size"],
        heads=heads,
        num_kv_heads=json.get("num_key_value_heads", KV_HEADS.get(kind)) or heads,
        head_dim=head_dim,
        mlp_dim=json["intermediate_size"],
        context=json.get("max_position_embeddings", CONTEXTS[kind]),
        rotary=rotary,
        window=window,
        global_blocks=global_blocks,
        window_rotary=window_rotary,
        query_key_norm=kind in ("qwen3", "gemma3_text"),
        query_scale=int(json.get("query_pre_attn_scalar", 256)) if gemma else 0,
        output_norms=gemma,
        scaled_embedding=gemma,
        activation="geglu" if gemma else "swiglu",
        epsilon=json.get("rms_norm_eps", 1e-6),
        tied=json.get("tie_word_embeddings", gemma),
        attention_bias=kind == "qwen2" or json.get("attention_bias", False),
        attention_output_bias=False if kind == "qwen2" else None,
        mlp_bias=json.get("mlp_bias", False),
    )
    return config, json["vocab_size"]


def _windows(json: Json, depth: int) -> tuple[int, tuple[int, ...]]:
    """Returns the window, and the blocks without one."""
    kind, gemma = json["model_type"], json["model_type"] == "gemma3_text"
    if kind == "llama" or (kind in ("qwen2", "qwen3") and not json.get("use_sliding_window")):
        return 0, ()
    window = json.get("sliding_window", 4096) or 0
    kinds = json.get("layer_types")
    if kind == "mistral":
        if window and kinds is not None and set(kinds) != {"sliding_attention"}:
            raise UserError("layer_types in config.json names layers without a window, which a Mistral does not have.")
        return window, ()
    if kinds is None and gemma:
        every = json.get("sliding_window_pattern", json.get("_sliding_window_pattern", 6))
        kinds = ["sliding_attention" if (block + 1) % every else "full_attention" for block in range(depth)]
    elif kinds is None:
        first = json.get("max_window_layers", 28)
        kinds = ["full_attention" if block < first else "sliding_attention" for block in range(depth)]
    if len(kinds) != depth or set(kinds) - {"sliding_attention", "full_attention"}:
        raise UserError(
            f"layer_types in config.json must name sliding_attention or full_attention for each of the {depth} layers."
        )
    global_blocks = tuple(block for block, kind in enumerate(kinds) if kind == "full_attention")
    return (0, ()) if not window or len(global_blocks) == depth else (window, global_blocks)


def model_type(config: Llama) -> str:
    """Returns the `model_type` that has these options; raises UserError where none has."""
    gemma = config.output_norms
    if config.scaled_embedding != gemma or config.activation != ("geglu" if gemma else "swiglu"):
        raise UserError(
            "Llama, Mistral, Qwen and Gemma 3 have no such mixture of options: output_norms, scaled_embedding and the "
            "activation geglu go together, in Gemma 3, and the others have none of them but the activation swiglu."
        )
    kind = "llama"
    if gemma or config.query_key_norm:
        kind = "gemma3_text" if gemma else "qwen3"
    elif config.attention_bias and not config.output_bias:
        kind = "qwen2"
    elif config.window and not config.global_blocks:
        kind = "mistral"
    rotaries = (config.rotary, config.window_rotary) if config.window else (config.rotary,)
    impossible = {
        "query_key_norm": gemma and not config.query_key_norm,
        "query_scale": not gemma and config.query_scale not in (0, config.resolved_head_dim),
        "mlp_bias": kind != "llama" and config.mlp_bias,
        "attention_bias": kind == "mistral" and config.attention_bias,
        "attention_output_bias": kind != "qwen2" and config.output_bias != config.attention_bias,
        "window": kind == "llama" and config.window > 0,
        "window_rotary": not gemma and len(set(rotaries)) > 1,
        "context": any(each.scaling == "dynamic" and each.original_context != config.context for each in rotaries),
    }
    for name, found in impossible.items():
        if found:
            raise UserError(f"A model of type {kind} cannot have {name}={getattr(config, name)!r}: change that option.")
    return kind


def to_json(config: Llama, shapes: Shapes) -> dict[str, Any]:
    """Writes config.json, the rotary positions in both ways, so that transformers 4 and 5 read it."""
    kind = model_type(config)
    gemma = kind == "gemma3_text"
    json = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "vocab_size": shapes["token_embedding"][0],
        "hidden_size": config.width,
        "intermediate_size": shapes["block_0/mlp/up/kernel"][1],
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.num_kv_heads or config.heads,
        "head_dim": config.resolved_head_dim,
        "hidden_activation" if gemma else "hidden_act": "gelu_pytorch_tanh" if gemma else "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.epsilon,
        "tie_word_embeddings": config.tied,
        "attention_bias": config.attention_bias,
        **_all_rotary_json(config, gemma),
    }
    if kind == "llama":
        return json | {"mlp_bias": config.mlp_bias}
    if kind == "mistral":
        return json | {"sliding_window": config.window}
    kinds = ["sliding_attention" if config.windowed(block) else "full_attention" for block in range(config.depth)]
    json |= {"layer_types": kinds, "sliding_window": config.window or None}
    if gemma:
        return json | {"query_pre_attn_scalar": config.query_scale or config.resolved_head_dim}
    first = kinds.index("sliding_attention") if config.window else config.depth
    return json | {"use_sliding_window": config.window > 0, "max_window_layers": first}


def _all_rotary_json(config: Llama, gemma: bool) -> dict[str, Any]:
    full, local = rotary_json(config.rotary), rotary_json(config.window_rotary)
    old = {"rope_theta": config.rotary.base, "rope_scaling": full if config.rotary.scaling != "none" else None}
    if not gemma:
        return old | {"rope_parameters": full}
    old["rope_local_base_freq"] = config.window_rotary.base
    return old | {"rope_parameters": dict(zip(BY_LAYER, (full, local), strict=True))}


def tensors(config: Llama) -> list[Tensor]:
    """Lists every parameter and what it is stored as."""
    gemma, num_kv_heads = config.output_norms, config.num_kv_heads or config.heads
    norm = _shifted if gemma else same
    listed = [same("token_embedding", "model.embed_tokens.weight"), norm("final_norm/scale", "model.norm.weight")]
    if not config.tied:
        listed.append(transposed("head/kernel", "lm_head.weight"))
    for index in range(config.depth):
        ours, theirs = f"block_{index}", f"model.layers.{index}"
        norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        if gemma:
            norms |= {"attention_output_norm": "post_attention_layernorm", "mlp_norm": "pre_feedforward_layernorm"}
            norms |= {"mlp_output_norm": "post_feedforward_layernorm"}
        if config.query_key_norm:
            norms |= {"attention/query_norm": "self_attn.q_norm", "attention/key_norm": "self_attn.k_norm"}
        listed += [norm(f"{ours}/{name}/scale", f"{theirs}.{other}.weight") for name, other in norms.items()]
        layers = {"attention/output": "self_attn.o_proj"}
        layers |= {f"mlp/{name}": f"mlp.{name}_proj" for name in ("up", "gate", "down")}
        heads = [f"{theirs}.self_attn.{part}_proj" for part in "qkv"]
        shared = (config.heads // num_kv_heads, 1, 1)
        for kind, stored in (("kernel", "weight"), ("bias", "bias")):
            joined = [f"{name}.{stored}" for name in heads]
            if kind == "kernel" or config.attention_bias:
                listed.append(joined_heads(f"{ours}/attention/query_key_value/{kind}", joined, num_kv_heads, shared))
            for name, other in layers.items():
                if kind == "kernel":
                    listed.append(transposed(f"{ours}/{name}/{kind}", f"{theirs}.{other}.{stored}"))
                elif config.mlp_bias if name.startswith("mlp") else config.output_bias:
                    listed.append(same(f"{ours}/{name}/{kind}", f"{theirs}.{other}.{stored}"))
    return listed


def _shifted(path: str, name: str) -> Tensor:
    # In half precision, as most files have it, the sum would lose what the difference keeps.
    return Tensor(path, (name,), lambda parts: parts[0].astype(np.float32) + 1, lambda array: [array - 1])


LLAMA_FAMILY = Family(
    model_types=("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gemma3"),
    config=Llama,
    configuration=configuration,
    to_json=to_json,
    tensors=tensors,
    tied=lambda config: (("model.embed_tokens.weight", "lm_head.weight"),),
    prefixes=("model.", "", "language_model.model.", "model.language_model."),
    ignored=(r"rotary_emb\.inv_freq", r"lm_head\.weight", r"(vision_tower|multi_modal_projector)\..*"),
)
