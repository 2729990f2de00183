"""GPT-2 in Hugging Face's form (Radford et al. 2019): a `GPT` with learned positions, LayerNorm and biases.

GPT-2 stores its kernels as [inputs outputs], and queries, keys and values one after another; ours go head by head.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from research.core.errors import UserError
from research.hub.family import Family, Json, Shapes, Tensor, refuse_others, same, stated_size, translated, transposed
from research.models.gpt import GPT

ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "exact_gelu", "relu": "relu", "silu": "silu"}
# What a GPT-2 of Hugging Face can be set to do that the model here does not.
FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}


def configuration(json: Json, head: str | None = None) -> tuple[GPT, int]:
    """Reads config.json; raises UserError for what the model cannot do."""
    if head is not None:
        raise UserError(f"A GPT predicts the next token and has no head {head!r}: leave the head out.")
    refuse_others(json, FIXED)
    config = GPT(
        depth=json["n_layer"],
        width=json["n_embd"],
        heads=json["n_head"],
        mlp_dim=stated_size(json, "n_inner", 4 * json["n_embd"]),
        context=json.get("n_positions", 1024),
        activation=translated(json, "activation_function", "gelu_new", ACTIVATIONS),
        epsilon=json.get("layer_norm_epsilon", 1e-5),
        tied=json.get("tie_word_embeddings", True),
        dropout=json.get("resid_pdrop", 0.1),
    )
    return config, json["vocab_size"]


def to_json(config: GPT, shapes: Shapes) -> dict[str, Any]:
    """Writes config.json; raises UserError for options that GPT-2 has not."""
    impossible = {
        "positions": config.positions != "learned",
        "norm": config.norm != "layer",
        "num_kv_heads": config.num_kv_heads not in (0, config.heads),
        "bias": not config.bias,
        "experts": config.experts > 0,
        "activation": config.activation not in ACTIVATIONS.values(),
    }
    for name, found in impossible.items():
        if found:
            raise UserError(
                f"GPT-2 cannot have {name}={getattr(config, name)!r}, so this model cannot be saved as one."
            )
    block = "blocks" if config.scan else "block_0"
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": shapes["token_embedding"][0],
        "n_layer": config.depth,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_inner": shapes[f"{block}/mlp/up/kernel"][-1],
        "n_positions": config.context,
        "activation_function": activation,
        "layer_norm_epsilon": config.epsilon,
        "tie_word_embeddings": config.tied,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
    }


def tensors(config: GPT) -> list[Tensor]:
    """Lists every parameter and what it is stored as."""
    listed = [
        same("token_embedding", "transformer.wte.weight"),
        same("position_embedding", "transformer.wpe.weight"),
        same("final_norm/scale", "transformer.ln_f.weight"),
        same("final_norm/bias", "transformer.ln_f.bias"),
    ]
    if not config.tied:
        listed.append(transposed("head/kernel", "lm_head.weight"))
    blocks = [_block(config.heads, f"transformer.h.{index}") for index in range(config.depth)]
    if config.scan:
        return listed + [_stacked(layers) for layers in zip(*blocks, strict=True)]
    for index, block in enumerate(blocks):
        listed += [tensor._replace(path=f"block_{index}/{tensor.path}") for tensor in block]
    return listed


def _block(heads: int, name: str) -> list[Tensor]:
    layers = {"attention_norm": "ln_1", "attention/output": "attn.c_proj", "mlp_norm": "ln_2"}
    layers |= {"mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj"}
    listed = []
    for kind, stored in (("kernel", "weight"), ("bias", "bias")):
        listed.append(_by_heads(f"attention/query_key_value/{kind}", f"{name}.attn.c_attn.{stored}", heads))
        for ours, theirs in layers.items():
            kind_of_layer = "scale" if kind == "kernel" and ours.endswith("norm") else kind
            listed.append(same(f"{ours}/{kind_of_layer}", f"{name}.{theirs}.{stored}"))
    return listed


def _by_heads(path: str, name: str, heads: int) -> Tensor:
    """Columns [query + key + value, heads, head] in the file, [heads, query + key + value, head] in ours."""

    def swapped(array: np.ndarray, *outer: int) -> np.ndarray:
        columns = array.reshape(*array.shape[:-1], *outer, array.shape[-1] // (3 * heads))
        return columns.swapaxes(-3, -2).reshape(array.shape)

    return Tensor(path, (name,), lambda parts: swapped(parts[0], 3, heads), lambda array: [swapped(array, heads, 3)])


def _stacked(layers: Sequence[Tensor]) -> Tensor:
    """The parameters of scanned blocks: one of ours for those of all blocks."""
    return Tensor(
        f"blocks/{layers[0].path}",
        tuple(name for layer in layers for name in layer.names),
        lambda parts: np.stack([layer.join([part]) for layer, part in zip(layers, parts, strict=True)]),
        lambda array: [part for layer, own in zip(layers, array, strict=True) for part in layer.split(own)],
    )


GPT2_FAMILY = Family(
    model_types=("gpt2",),
    config=GPT,
    configuration=configuration,
    to_json=to_json,
    tensors=tensors,
    tied=lambda config: (("transformer.wte.weight", "lm_head.weight"),),
    prefixes=("transformer.", ""),
    inputs_first=True,
    ignored=(r"h\.\d+\.attn\.(masked_)?bias", r"lm_head\.weight"),
)
