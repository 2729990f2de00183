"""BERT and its relatives in Hugging Face's form (Devlin et al. 2019), with all heads of our `BERT`.

RoBERTa (Liu et al. 2019) is a BERT that counts positions from the number of its padding token, and names its heads in
its own way; XLM-RoBERTa and CamemBERT differ from it in their vocabularies alone. DistilBERT (Sanh et al. 2019) has no
kinds of tokens, and other names everywhere. Older files call the scale and bias of a norm `gamma` and `beta`; the bare
model is stored without its wrapper's name.
"""

from collections.abc import Iterator
from typing import Any

from research.core.errors import UserError, quoted
from research.hub.family import (
    Family,
    Groups,
    Json,
    Shapes,
    Tensor,
    layer_norm,
    linear,
    linear_heads,
    refuse_others,
    same,
    translated,
    transposed,
)
from research.models.bert import BERT, HeadKind, PoolingKind
from research.models.layers.feed_forward import ActivationKind

ACTIVATIONS: dict[str, ActivationKind] = {
    "gelu": "exact_gelu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
}
POOLINGS: dict[str, PoolingKind] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
HEADS: dict[HeadKind, str] = {
    "masked": "ForMaskedLM",
    "sequence": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "span": "ForQuestionAnswering",
    "embedding": "Model",
}
# Layers of a block, and of the masked head: its dense layer, norm, decoder and bias.
BLOCK = {
    "attention/query_key_value": "attention.self.query attention.self.key attention.self.value",
    "attention/output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
DISTILBERT_BLOCK = {
    "attention/query_key_value": "attention.q_lin attention.k_lin attention.v_lin",
    "attention/output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "mlp/up": "ffn.lin1",
    "mlp/down": "ffn.lin2",
    "mlp_norm": "output_layer_norm",
}
BERT_MASKED = ("transform.dense", "transform.LayerNorm", "decoder", "bias")
MASKED = {
    "bert.": tuple(f"cls.predictions.{name}" for name in BERT_MASKED),
    "roberta.": ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
    "distilbert.": ("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"),
}
ROBERTAS = ("roberta", "xlm-roberta", "camembert")
# What DistilBERT calls the fields of a BERT's config.json, and what those are that it does not have.
DISTILBERT = {"num_hidden_layers": "n_layers", "hidden_size": "dim", "num_attention_heads": "n_heads"} | {
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
}
DISTILBERT_UNKNOWN = ("type_vocab_size", "layer_norm_eps", "attention_probs_dropout_prob")
DISTILBERT_FIXED = {"type_vocab_size": 0, "layer_norm_eps": 1e-12}
# What a BERT of Hugging Face can be set to do that the model here does not.
FIXED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}


def configuration(json: Json, head: str | None = None) -> tuple[BERT, int]:
    """Reads config.json; raises UserError for what the model cannot do.

    Embeddings are the means of all positions, as sentence-transformers has them by default, or what the file says.
    """
    refuse_others(json, FIXED)
    distilbert = json["model_type"] == "distilbert"
    if distilbert:
        own = {name: json[theirs] for name, theirs in DISTILBERT.items() if theirs in json}
        json = {"num_hidden_layers": 6, **json, **DISTILBERT_FIXED, **own}
    elif json.get("type_vocab_size") == 0:
        raise UserError("config.json sets 'type_vocab_size' to 0, but a BERT has at least one kind of tokens.")
    kind = _head(json) if head is None else next((each for each in HEADS if each == head), None)
    if kind is None:
        raise UserError(f"A BERT has no head {head!r}; it has {', '.join(HEADS)}.")
    pooling: PoolingKind = "first"
    if kind == "embedding":
        pooling = translated(json, "sentence_pooling", "pooling_mode_mean_tokens", POOLINGS)
    roberta = json["model_type"] in ROBERTAS
    padding = json.get("pad_token_id", 1) if roberta else -1
    activation = translated(json, "hidden_act", "gelu", ACTIVATIONS)
    if roberta and kind == "masked" and activation != "exact_gelu":
        raise UserError(f"The masked head of a RoBERTa has gelu, but config.json sets hidden_act to {activation!r}.")
    config = BERT(
        depth=json.get("num_hidden_layers", 12),
        width=json.get("hidden_size", 768),
        heads=json.get("num_attention_heads", 12),
        mlp_dim=json.get("intermediate_size", 3072),
        context=json.get("max_position_embeddings", 512) - padding - 1,
        vocabulary=json["vocab_size"],
        token_types=json.get("type_vocab_size", 2),
        head=kind,
        pooling=pooling,
        pooler_activation="relu" if distilbert else "tanh",
        tied=json.get("tie_word_embeddings", True),
        padding=padding,
        activation=activation,
        epsilon=json.get("layer_norm_eps", 1e-12),
        dropout=json.get("hidden_dropout_prob", 0.1),
    )
    labels = len(json["id2label"]) if json.get("id2label") else json.get("num_labels", 2)
    return config, {"masked": config.vocabulary, "embedding": config.width, "span": 2}.get(kind, labels)


def _head(json: Json) -> HeadKind:
    """Returns the head that a file was written for."""
    architecture = (json.get("architectures") or ["Model"])[0]
    if architecture.endswith("ForPreTraining"):  # it predicts masked tokens, and whether one sentence follows another
        return "masked"
    head = next((head for head, suffix in HEADS.items() if architecture.endswith(suffix)), None)
    if head is None:
        raise UserError(
            f"config.json is that of a {quoted(architecture)}, a head that the model here does not have: name one of "
            f"{', '.join(HEADS)}."
        )
    return head


def to_json(config: BERT, shapes: Shapes) -> dict[str, Any]:
    """Writes config.json; raises UserError for options that BERT, RoBERTa and DistilBERT have not."""
    roberta, distilbert = config.padding >= 0, not config.token_types
    sequence = config.head == "sequence"
    impossible = {
        "token_types": roberta and distilbert,
        "epsilon": distilbert and config.epsilon != DISTILBERT_FIXED["layer_norm_eps"],
        "pooling": sequence and config.pooling != "first",
        "pooler": sequence and not config.pooler,
        "pooler_activation": sequence and (config.pooler_activation == "relu") != distilbert,
        "activation": config.activation not in ACTIVATIONS.values()
        or (roberta and config.head == "masked" and config.activation != "exact_gelu"),
    }
    for name, found in impossible.items():
        if found:
            raise UserError(
                f"No BERT, RoBERTa or DistilBERT of the Hugging Face library can have {name}={getattr(config, name)!r} "
                f"with the head {config.head!r}, so this model cannot be saved as one: train it with what they have "
                "(for labels of whole texts, --model.pooling first and --model.pooler)."
            )
    json: dict[str, Any] = {
        "model_type": "roberta" if roberta else "bert",
        "architectures": [("Roberta" if roberta else "Bert") + HEADS[config.head]],
        "vocab_size": shapes["token_embedding"][0],
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": shapes["block_0/mlp/up/kernel"][1],
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "max_position_embeddings": shapes["position_embedding"][0],
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "tie_word_embeddings": config.tied,
        "pad_token_id": max(config.padding, 0),
    }
    if distilbert:
        json = {DISTILBERT.get(name, name): value for name, value in json.items() if name not in DISTILBERT_UNKNOWN}
        json |= {"model_type": "distilbert", "architectures": [f"DistilBert{HEADS[config.head]}"]}
    if config.head == "embedding":  # not a field of theirs, whose BERT has no say in it
        json["sentence_pooling"] = next(theirs for theirs, ours in POOLINGS.items() if ours == config.pooling)
    if config.head in ("sequence", "token"):
        labels = range(shapes["head/kernel"][1])
        json["id2label"] = {str(label): f"LABEL_{label}" for label in labels}
        json["label2id"] = {f"LABEL_{label}": label for label in labels}
        if config.head == "sequence" and len(labels) == 1:
            json["problem_type"] = "regression"  # or else the library would take a sigmoid of the number
    return json


def _base(config: BERT) -> str:
    return "roberta." if config.padding >= 0 else "bert." if config.token_types else "distilbert."


def tensors(config: BERT) -> list[Tensor]:
    """Lists every parameter and what it is stored as, the newest way first."""
    base = _base(config)
    listed = [
        same("token_embedding", f"{base}embeddings.word_embeddings.weight"),
        same("position_embedding", f"{base}embeddings.position_embeddings.weight"),
        *layer_norm("embedding_norm", f"{base}embeddings.LayerNorm"),
    ]
    if config.token_types:
        listed.append(same("token_type_embedding", f"{base}embeddings.token_type_embeddings.weight"))
    blocks, names = ("encoder.layer", BLOCK) if config.token_types else ("transformer.layer", DISTILBERT_BLOCK)
    for index in range(config.depth):
        ours, theirs = f"block_{index}", f"{base}{blocks}.{index}"
        joined = [f"{theirs}.{part}" for part in names["attention/query_key_value"].split()]
        listed += linear_heads(f"{ours}/attention/query_key_value", joined, config.heads)
        for layer in ("attention/output", "mlp/up", "mlp/down"):
            listed += linear(f"{ours}/{layer}", f"{theirs}.{names[layer]}")
        for norm in ("attention_norm", "mlp_norm"):
            listed += layer_norm(f"{ours}/{norm}", f"{theirs}.{names[norm]}")
    return [choice for tensor in listed + _head_tensors(config) for choice in _choices(tensor, base)]


def _head_tensors(config: BERT) -> list[Tensor]:
    base = _base(config)
    match config.head:
        case "masked":
            return _masked_tensors(config)
        case "sequence":
            poolers = {"roberta.": "classifier.dense", "bert.": "bert.pooler.dense", "distilbert.": "pre_classifier"}
            head = "classifier.out_proj" if base == "roberta." else "classifier"
            return (linear("pooler", poolers[base]) if config.pooler else []) + linear("head", head)
        case "token":
            return linear("head", "classifier")
        case "span":
            return linear("head", "qa_outputs")
        case "embedding":
            return []


def _masked_tensors(config: BERT) -> list[Tensor]:
    dense, norm, decoder, bias = MASKED[_base(config)]
    listed = linear("transform", dense) + layer_norm("transform_norm", norm)
    if config.tied:
        return [*listed, same("head_bias", bias)]
    kernel = transposed("head/kernel", f"{decoder}.weight")
    if bias == f"{decoder}.bias":
        return [*listed, kernel, same("head_bias", bias)]
    # An untied decoder has a bias of its own, and the file has the other one nevertheless.
    both = Tensor("head_bias", (f"{decoder}.bias", bias), lambda parts: parts[0], lambda array: [array, array])
    return [*listed, kernel, both]


def _tied(config: BERT) -> Groups:
    _, _, decoder, bias = MASKED[_base(config)]
    embedding = (f"{_base(config)}embeddings.word_embeddings.weight", f"{decoder}.weight")
    return embedding, (bias, f"{decoder}.bias")


def _choices(tensor: Tensor, base: str) -> Iterator[Tensor]:
    """Yields the ways in which a tensor may be stored."""
    bare = tensor._replace(names=tuple(name.removeprefix(base) for name in tensor.names))
    for choice in (tensor, bare) if bare.names != tensor.names else (tensor,):
        yield choice
        if any("LayerNorm" in name for name in choice.names):
            old = (name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta") for name in choice.names)
            yield choice._replace(names=tuple(old))


BERT_FAMILY = Family(
    model_types=("bert", *ROBERTAS, "distilbert"),
    config=BERT,
    configuration=configuration,
    to_json=to_json,
    tensors=tensors,
    tied=_tied,
    ignored=(
        r"embeddings\.(position|token_type)_ids",
        r"(pooler|lm_head|cls|(pre_)?classifier|vocab_(transform|layer_norm|projector)|qa_outputs)\..*",
    ),
    new=r"^(head|pooler|transform)",
)
