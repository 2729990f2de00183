"""T5 in Hugging Face's form, version 1.0 and 1.1 (Raffel et al. 2020), and mT5 (Xue et al. 2021), which is version 1.1.

In version 1.1 the head is not tied. Version 5 of the transformers library writes `tie_word_embeddings` as true all the
same, and says it by `scale_decoder_outputs` instead: where either is false, the head is read from the file. Where that
has none although `tie_word_embeddings` is true, the head is the embedding, not scaled.
"""

from typing import Any

from research.core.errors import UserError
from research.hub.family import (
    Family,
    Json,
    Shapes,
    Tensor,
    joined_heads,
    refuse_others,
    same,
    stated_size,
    translated,
    transposed,
)
from research.models.layers.feed_forward import GATES, ActivationKind
from research.models.t5 import T5

EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
ACTIVATIONS: dict[str, ActivationKind] = {
    "relu": "relu",
    "gated-gelu": "geglu",
    "gated-gelu_new": "geglu",
    "gelu": "exact_gelu",
    "gelu_new": "gelu",
    "silu": "silu",
    "gated-silu": "swiglu",
}

# What a config.json of mT5 means that leaves out a field.
MT5 = {"num_layers": 8, "num_heads": 6, "d_ff": 1024, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": True}


def configuration(json: Json, head: str | None = None) -> tuple[T5, int]:
    """Reads config.json; raises UserError for what the model cannot do."""
    if head is not None:
        raise UserError(f"A T5 predicts the next token and has no head {head!r}: leave the head out.")
    refuse_others(json, {"is_encoder_decoder": True})
    if mt5 := json["model_type"] == "mt5":
        json = {**MT5, **json}
    depth = json.get("num_layers", 6)
    config = T5(
        depth=depth,
        decoder_depth=stated_size(json, "num_decoder_layers", depth),
        width=json.get("d_model", 512),
        heads=json.get("num_heads", 8),
        head_dim=json.get("d_kv", 64),
        mlp_dim=json.get("d_ff", 2048),
        buckets=json.get("relative_attention_num_buckets", 32),
        distance=json.get("relative_attention_max_distance", 128),
        activation=translated(json, "feed_forward_proj", "relu", ACTIVATIONS),
        epsilon=json.get("layer_norm_epsilon", 1e-6),
        tied=not mt5 and json.get("tie_word_embeddings", True) and json.get("scale_decoder_outputs", True),
        dropout=json.get("dropout_rate", 0.1),
    )
    return config, json["vocab_size"]


def to_json(config: T5, shapes: Shapes) -> dict[str, Any]:
    """Writes config.json; padding, which decoders begin with, is token 0 and the end token 1, as T5 has them."""
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": shapes["token_embedding"][0],
        "num_layers": config.depth,
        "num_decoder_layers": config.decoder_depth or config.depth,
        "d_model": config.width,
        "num_heads": config.heads,
        "d_kv": config.head_dim or config.width // config.heads,
        "d_ff": shapes["encoder_0/mlp/up/kernel"][1],
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.distance,
        "feed_forward_proj": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_epsilon": config.epsilon,
        "tie_word_embeddings": config.tied,
        "dropout_rate": config.dropout,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def tensors(config: T5) -> list[Tensor]:
    """Lists every parameter and what it is stored as; some files name the embedding after one of its users."""
    listed = [same("token_embedding", name) for name in EMBEDDINGS]
    if not config.tied:
        listed.append(transposed("head/kernel", "lm_head.weight"))
    for stack, depth in (("encoder", config.depth), ("decoder", config.decoder_depth or config.depth)):
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        listed.append(same(f"{stack}_relative_positions/embedding", table))
        listed.append(same(f"{stack}_norm/scale", f"{stack}.final_layer_norm.weight"))
        for index in range(depth):
            listed += _block(config, stack, index)
    return listed


def _block(config: T5, stack: str, index: int) -> list[Tensor]:
    ours, theirs = f"{stack}_{index}", f"{stack}.block.{index}.layer"
    attention = f"{theirs}.0.SelfAttention"
    names = [f"{attention}.{part}.weight" for part in "qkv"]
    listed = [
        joined_heads(f"{ours}/attention/query_key_value/kernel", names, config.heads, (1, 1, 1)),
        transposed(f"{ours}/attention/output/kernel", f"{attention}.o.weight"),
    ]
    sublayers = ["attention", "mlp"]
    if stack == "decoder":
        sublayers.insert(1, "cross_attention")
        attention = f"{theirs}.1.EncDecAttention"
        names = [f"{attention}.{part}.weight" for part in "kv"]
        listed += [
            transposed(f"{ours}/cross_attention/query/kernel", f"{attention}.q.weight"),
            joined_heads(f"{ours}/cross_attention/key_value/kernel", names, config.heads, (1, 1)),
            transposed(f"{ours}/cross_attention/output/kernel", f"{attention}.o.weight"),
        ]
    gated = config.activation in GATES
    layers = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}
    mlp = f"{theirs}.{len(sublayers) - 1}.DenseReluDense"
    listed += [transposed(f"{ours}/mlp/{name}/kernel", f"{mlp}.{other}.weight") for name, other in layers.items()]
    for place, sublayer in enumerate(sublayers):
        listed.append(same(f"{ours}/{sublayer}_norm/scale", f"{theirs}.{place}.layer_norm.weight"))
    return listed


T5_FAMILY = Family(
    model_types=("t5", "mt5"),
    config=T5,
    configuration=configuration,
    to_json=to_json,
    tensors=tensors,
    tied=lambda config: ((*EMBEDDINGS, "lm_head.weight"),),
    ignored=(
        r"(en|de)coder\.embed_tokens\.weight",
        r"lm_head\.weight",
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    ),
)
