"""The translation models of Marian in Hugging Face's form (Junczys-Dowmunt et al. 2018; Tiedemann & Thottingal 2020).

They are original transformers whose sinusoids have all sines first and whose logits have a bias.
"""

from typing import Any

import numpy as np

from research.core.errors import UserError
from research.hub.family import (
    Family,
    Json,
    Shapes,
    Tensor,
    layer_norm,
    linear,
    linear_heads,
    refuse_others,
    same,
    stated_size,
    translated,
    transposed,
)
from research.models.layers.feed_forward import ActivationKind
from research.models.transformer import Transformer

ACTIVATIONS: dict[str, ActivationKind] = {
    "gelu": "exact_gelu",
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "gelu_new": "gelu",
}
# What a Marian of Hugging Face, or an older one, can be set to do that the model here does not.
FIXED = {
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
    "is_decoder": False,
}
MARIAN: dict[str, Any] = {"sinusoid": "halves", "head_bias": True, "norm_first": False, "epsilon": 1e-5}
SHARED = ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")


def configuration(json: Json, head: str | None = None) -> tuple[Transformer, int]:
    """Reads config.json; raises UserError for what the model cannot do."""
    if head is not None:
        raise UserError(f"A Marian model predicts the next token and has no head {head!r}: leave the head out.")
    heads, mlp_dim = json.get("encoder_attention_heads", 16), json.get("encoder_ffn_dim", 4096)
    fixed = FIXED | {"decoder_attention_heads": heads, "decoder_ffn_dim": mlp_dim}
    refuse_others({"decoder_attention_heads": 16, "decoder_ffn_dim": 4096, **json}, fixed)
    shared = json.get("share_encoder_decoder_embeddings", True)
    tied = json.get("tie_word_embeddings", True)
    if shared and not tied:
        raise UserError(
            "config.json shares the embeddings of source and target, but sets 'tie_word_embeddings' to False, which "
            "the model here does not have."
        )
    config = Transformer(
        depth=json.get("encoder_layers", 12),
        decoder_depth=json.get("decoder_layers", 12),
        width=json.get("d_model", 1024),
        heads=heads,
        mlp_dim=mlp_dim,
        context=json.get("max_position_embeddings", 1024),
        source_vocabulary=0 if shared else json["vocab_size"],
        scaled_embedding=json.get("scale_embedding", False),
        activation=translated(json, "activation_function", "gelu", ACTIVATIONS),
        tied=tied,
        dropout=json.get("dropout", 0.1),
        **MARIAN,
    )
    return config, json["vocab_size"] if shared else stated_size(json, "decoder_vocab_size", json["vocab_size"])


def to_json(config: Transformer, shapes: Shapes) -> dict[str, Any]:
    """Writes config.json; as Marian has it, token 0 ends a text, and the last one is padding and begins the target.

    Raises UserError for options that Marian has not.
    """
    impossible = {name: getattr(config, name) for name, value in MARIAN.items() if getattr(config, name) != value}
    impossible |= {} if config.activation in ACTIVATIONS.values() else {"activation": config.activation}
    impossible |= {} if config.tied or config.source_vocabulary else {"tied": config.tied}
    for name, value in impossible.items():
        raise UserError(f"A Marian model cannot have {name}={value!r}, so this model cannot be saved as one.")
    target = shapes["token_embedding"][0]
    padding = min(target, config.source_vocabulary or target) - 1
    heads, mlp_dim = config.heads, shapes["encoder_0/mlp/up/kernel"][1]
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "vocab_size": config.source_vocabulary or target,
        "decoder_vocab_size": target,
        "share_encoder_decoder_embeddings": not config.source_vocabulary,
        "tie_word_embeddings": config.tied,
        "encoder_layers": config.depth,
        "decoder_layers": config.decoder_depth or config.depth,
        "d_model": config.width,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": mlp_dim,
        "decoder_ffn_dim": mlp_dim,
        "max_position_embeddings": config.context,
        "scale_embedding": config.scaled_embedding,
        "activation_function": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "dropout": config.dropout,
        "is_encoder_decoder": True,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        "pad_token_id": padding,
        "decoder_start_token_id": padding,
    }


def tensors(config: Transformer) -> list[Tensor]:
    """Lists every parameter and what it is stored as; some files name the shared embedding after one of its users."""
    if config.source_vocabulary:
        listed = [same("source_embedding", "model.encoder.embed_tokens.weight")]
        listed.append(same("token_embedding", "model.decoder.embed_tokens.weight"))
    else:
        listed = [same("token_embedding", f"{name}.weight") for name in SHARED]
    if not config.tied:
        listed.append(transposed("head/kernel", "lm_head.weight"))
    listed.append(
        Tensor(
            "head_bias", ("final_logits_bias",), lambda parts: parts[0].reshape(-1), lambda array: [array[np.newaxis]]
        )
    )
    for stack, depth in (("encoder", config.depth), ("decoder", config.decoder_depth or config.depth)):
        for index in range(depth):
            listed += _block(config.heads, stack, index)
    return listed


def _block(heads: int, stack: str, index: int) -> list[Tensor]:
    ours, theirs = f"{stack}_{index}", f"model.{stack}.layers.{index}"
    attention, cross = f"{theirs}.self_attn", f"{theirs}.encoder_attn"
    joined = [f"{attention}.{part}_proj" for part in "qkv"]
    listed = [
        *linear_heads(f"{ours}/attention/query_key_value", joined, heads),
        *linear(f"{ours}/attention/output", f"{attention}.out_proj"),
        *layer_norm(f"{ours}/attention_norm", f"{theirs}.self_attn_layer_norm"),
        *linear(f"{ours}/mlp/up", f"{theirs}.fc1"),
        *linear(f"{ours}/mlp/down", f"{theirs}.fc2"),
        *layer_norm(f"{ours}/mlp_norm", f"{theirs}.final_layer_norm"),
    ]
    if stack == "encoder":
        return listed
    return [
        *listed,
        *linear(f"{ours}/cross_attention/query", f"{cross}.q_proj"),
        *linear_heads(f"{ours}/cross_attention/key_value", [f"{cross}.k_proj", f"{cross}.v_proj"], heads),
        *linear(f"{ours}/cross_attention/output", f"{cross}.out_proj"),
        *layer_norm(f"{ours}/cross_attention_norm", f"{theirs}.encoder_attn_layer_norm"),
    ]


MARIAN_FAMILY = Family(
    model_types=("marian",),
    config=Transformer,
    configuration=configuration,
    to_json=to_json,
    tensors=tensors,
    tied=lambda config: (tuple(f"{name}.weight" for name in (SHARED[-2:] if config.source_vocabulary else SHARED)),),
    ignored=(r"(en|de)coder\.embed_(positions|tokens)\.weight", r"lm_head\.weight"),
)
