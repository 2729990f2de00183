"""Random small models of the transformers library, in folders as people publish them: each a function of its number.

A folder has odd but legal options, tied tensors under any of their names, prefixes of wrappers, half precision, and
settings of how it writes. `Folder.odd` has the names of what a model here may lack; its refusal has to say one of them.
"""

import dataclasses
import json
import random
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers

VOCABULARY, LENGTH, PROMPT = 29, 9, 4
WRITTEN = 6  # tokens
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
ENCODERS = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
ENCODERS |= {"distilbert": "DistilBert"}
DECODERS = {"gpt2": "GPT2LMHeadModel"} | {
    kind: f"{name}ForCausalLM"
    for kind, name in (("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3"))
}
DECODERS |= {"gemma3_text": "Gemma3ForCausalLM"}
BOTH = {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration", "marian": "MarianMTModel"}
KINDS = (*ENCODERS, *DECODERS, *BOTH)
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
TIED = {  # the embedding and the head
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma3_text"), ("model.embed_tokens.weight", "lm_head.weight")
    ),
    "t5": ("shared.weight", "decoder.embed_tokens.weight"),
    "mt5": ("shared.weight", "lm_head.weight"),
    "marian": ("model.shared.weight", "model.decoder.embed_tokens.weight"),
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "distilbert": ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    **dict.fromkeys(
        ("roberta", "xlm-roberta", "camembert"), ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight")
    ),
}


@dataclasses.dataclass
class Folder:
    """What was made.

    Attributes:
        path: of the folder.
        kind: its model_type.
        model: the library's, in float32, with the parameters of the file.
        odd: fields, or words, that a refusal may name.
        written: tokens to write.
    """

    path: Path
    kind: str
    model: Any
    odd: list[str]
    written: int = WRITTEN


class Draw(random.Random):
    """Draws values, and keeps the names of those that a model here may lack."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.odd: list[str] = []

    def rare(self, name: str, value: Any, plain: Any = None, chance: float = 0.04) -> dict[str, Any]:
        """Returns the field with a value that may be refused, rarely, or else a plain one."""
        if self.random() < chance:
            self.odd.append(name)
            return {name: value}
        return {} if plain is None else {name: plain}


def rotary(draw: Draw) -> dict[str, Any]:
    """The fields of rotary positions, as version 5 writes them."""
    scaled = {"rope_theta": draw.choice([1e4, 500.0]), "factor": draw.choice([2.0, 3.5])}
    kind = draw.choice(["default", "default", "linear", "llama3", "yarn", "yarn", "dynamic"])
    fields: dict[str, Any] = {"max_position_embeddings": 8 if kind == "dynamic" else 32}
    scaled["rope_type"] = kind
    if kind == "default":
        del scaled["factor"]
    if kind in ("llama3", "yarn"):
        scaled["original_max_position_embeddings"] = 8
    if kind == "llama3":
        scaled |= {"low_freq_factor": 1.0, "high_freq_factor": draw.choice([4.0, 2.0])}
    if kind == "yarn":
        scaled |= draw.choice([{}, {"attention_factor": 1.5}, {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False}])
    if draw.random() < 0.03:
        half = draw.choice([4, 3])
        draw.odd.append("longrope")
        scaled = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * half, "long_factor": [2.0] * half}
        scaled["original_max_position_embeddings"] = 8
        fields["head_dim"] = 2 * half
    return fields | {"rope_parameters": scaled}


def decoder_options(kind: str, draw: Draw) -> dict[str, Any]:
    depth, tied = draw.choice([1, 2]), draw.random() < 0.5
    if kind == "gpt2":
        return (
            {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": depth, "n_head": draw.choice([2, 4]), "n_positions": 32}
            | {"n_inner": draw.choice([None, 24]), "layer_norm_epsilon": draw.choice([1e-5, 1e-2])}
            | {"tie_word_embeddings": tied, "activation_function": draw.choice(["gelu_new", "relu", "gelu", "silu"])}
            | draw.rare("activation_function", "quick_gelu", draw.choice(["gelu_new", "relu", "gelu", "silu"]))
            | draw.rare("scale_attn_weights", False)
            | draw.rare("scale_attn_by_inverse_layer_idx", True)
        )
    options = SIZES | rotary(draw) | {"num_hidden_layers": depth, "tie_word_embeddings": tied}
    options |= {"num_key_value_heads": draw.choice([1, 2, 4]), "rms_norm_eps": draw.choice([1e-6, 1e-2])}
    if kind != "qwen2" and "head_dim" not in options:
        options["head_dim"] = draw.choice([4, 6])
    if kind in ("llama", "qwen3", "gemma3_text"):
        options["attention_bias"] = draw.random() < 0.4
    if kind == "llama":
        options["mlp_bias"] = draw.random() < 0.4
    if kind == "mistral":
        options["sliding_window"] = draw.choice([None, 3, 100])
    if kind in ("qwen2", "qwen3"):
        options |= {
            "use_sliding_window": draw.random() < 0.5,
            "sliding_window": 3,
            "max_window_layers": draw.choice([0, 1]),
        }
    if kind != "gemma3_text":
        return options | draw.rare("hidden_act", "gelu")
    layers = [draw.choice(["sliding_attention", "full_attention"]) for _ in range(depth)]
    options["rope_parameters"] = {
        "full_attention": options["rope_parameters"],
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    options |= {"layer_types": layers, "sliding_window": 3, "query_pre_attn_scalar": draw.choice([4, 20])}
    options |= draw.rare("attn_logit_softcapping", 5.0) | draw.rare("final_logit_softcapping", 5.0)
    return options | draw.rare("hidden_activation", "relu") | draw.rare("use_bidirectional_attention", True)


def encoder_options(kind: str, draw: Draw) -> dict[str, Any]:
    activation, depth = draw.choice(["gelu", "relu", "silu", "gelu_new"]), draw.choice([1, 2])
    shared = {"tie_word_embeddings": draw.random() < 0.6, "num_labels": 2, "vocab_size": VOCABULARY}
    if kind == "distilbert":
        options = shared | {"dim": 16, "n_layers": depth, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 32}
        return options | draw.rare("activation", "quick_gelu", activation)
    options = SIZES | shared | {"num_hidden_layers": depth, "max_position_embeddings": 32}
    options |= {"type_vocab_size": draw.choice([1, 2, 3]), "layer_norm_eps": draw.choice([1e-12, 1e-3])}
    options |= {} if kind == "bert" else {"pad_token_id": draw.choice([1, 0, 3])}
    if kind != "bert" and activation != "gelu":
        draw.odd.append("hidden_act")  # of the masked head
    return options | draw.rare("hidden_act", "quick_gelu", activation) | draw.rare("is_decoder", True)


def both_options(kind: str, draw: Draw) -> dict[str, Any]:
    depth, tied = draw.choice([1, 2]), draw.random() < 0.5
    if kind == "marian":
        shared = draw.random() < 0.6
        options = {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "encoder_layers": depth,
            "decoder_layers": draw.choice([1, 2]),
        }
        options |= {"encoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "pad_token_id": 28}
        options |= {
            "max_position_embeddings": 32,
            "decoder_start_token_id": 28,
            "eos_token_id": 0,
            "forced_eos_token_id": 0,
        }
        options |= {"share_encoder_decoder_embeddings": shared, "scale_embedding": draw.random() < 0.5}
        if not shared:
            options |= {"tie_word_embeddings": tied}
        options |= draw.rare("decoder_attention_heads", 2, 4)
        return options | draw.rare("activation_function", "quick_gelu", draw.choice(["swish", "gelu", "relu"]))
    options = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": draw.choice([4, 6]), "d_ff": 24, "num_heads": 4}
    options |= {"num_layers": depth, "num_decoder_layers": draw.choice([1, 2]), "tie_word_embeddings": tied}
    options |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": draw.choice([6, 20])}
    activations = ["relu", "gated-gelu", "gated-silu", "gelu", "silu"]
    return options | draw.rare("feed_forward_proj", "gated-relu", draw.choice(activations))


def architecture(kind: str, draw: Draw) -> str:
    if kind not in ENCODERS:
        return {**DECODERS, **BOTH}[kind]
    if kind == "bert" and draw.random() < 0.1:
        name = draw.choice(["BertForPreTraining", "BertForNextSentencePrediction", "BertForMultipleChoice"])
        draw.odd += [] if name == "BertForPreTraining" else [name]
        return name
    return ENCODERS[kind] + draw.choice(HEADS)


def made(number: int, path: Path) -> Folder:
    """Makes the folder of a number."""
    kind, draw = KINDS[number % len(KINDS)], Draw(number)
    torch.manual_seed(number)
    name = architecture(kind, draw)
    choose = encoder_options if kind in ENCODERS else decoder_options if kind in DECODERS else both_options
    options = choose(kind, draw)
    model_class = getattr(transformers, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model_class(model_class.config_class(**options)).eval()
    _randomise(model, kind, options)
    folder = Folder(path, kind, model, draw.odd, 4 if options.get("max_position_embeddings") == 8 else WRITTEN)
    if kind not in ENCODERS:
        _set_writing(folder, draw)
    dtype = draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    with torch.no_grad():  # of buffers only the bias of Marian's logits is in the file, of its sinusoids none
        for each, tensor in (*model.named_parameters(), *model.named_buffers()):
            if each == "final_logits_bias" or (
                isinstance(tensor, torch.nn.Parameter) and "embed_positions" not in each
            ):
                tensor.copy_(tensor.to(dtype).float())
    model.save_pretrained(path)
    if draw.random() < 0.3:
        _move_rules(path)
    _rename(folder, draw, dtype)
    _quantise(folder, draw)
    return folder


def _randomise(model: Any, kind: str, options: dict[str, Any]) -> None:
    if kind in ("t5", "mt5") and options["tie_word_embeddings"] is False:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(VOCABULARY, 16))  # the library ties it whatever is said
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(0, 0.25).add_(parameter.ndim == 1 and not parameter_name.endswith("bias"))
        if kind == "marian":
            for stack in (model.model.encoder, model.model.decoder):
                stack.embed_positions.weight.copy_(stack.embed_positions.create_weight())
            model.final_logits_bias.normal_()


def inputs(folder: Folder) -> dict[str, Any]:
    """Two rows of tokens, and where there is a decoder what it reads."""
    tokens = torch.randint(4, 27, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens} | ({"decoder_input_ids": tokens.flip(1)} if folder.kind in BOTH else {})


def greedy(folder: Folder, **settings: Any) -> list[int]:
    """What the library writes after the first row's prompt; of an encoder-decoder, for its whole first row."""
    tokens = inputs(folder)["input_ids"][:1] if folder.kind in BOTH else inputs(folder)["input_ids"][:1, :PROMPT]
    options = {"max_new_tokens": folder.written, "do_sample": False, "num_beams": 1, "pad_token_id": 28, **settings}
    mask = torch.ones_like(tokens)
    found = folder.model.generate(tokens, attention_mask=mask, use_cache=folder.kind not in BOTH, **options)
    return found[0, 1 if folder.kind in BOTH else PROMPT :].tolist()


def _set_writing(folder: Folder, draw: Draw) -> None:
    """Sets how the model writes, so that it matters to what it would write."""
    settings = folder.model.generation_config
    if folder.kind != "marian":
        settings.eos_token_id = None
    if folder.kind in BOTH and settings.decoder_start_token_id is None:
        settings.decoder_start_token_id = 0
    free = greedy(folder, eos_token_id=None, forced_eos_token_id=None)
    for _ in range(draw.choice([0, 1, 1, 2])):
        rule = draw.choice(
            ["ends", "ends", "never", "first", "word", "penalty", "last", "bos", "words", "ngram", "shortest"]
        )
        match rule:
            case "ends":
                settings.eos_token_id = [*draw.sample(range(20), 2), draw.choice(free)]
            case "never":
                settings.suppress_tokens = [free[0], 7]
            case "first":
                settings.begin_suppress_tokens = [free[0]]
            case "word":
                settings.bad_words_ids = [[free[-1]]]
            case "penalty":
                settings.repetition_penalty = draw.choice([1.3, 0.8])
                draw.odd += ["repetition_penalty"] if folder.kind in BOTH else []
            case "last":
                settings.forced_eos_token_id = draw.choice([5, 6])
            case "bos" if folder.kind in BOTH:
                settings.forced_bos_token_id = draw.choice([5, 6])
            case "words":
                settings.bad_words_ids = [[free[0], free[1]]]
                draw.odd.append("bad_words_ids")
            case "ngram":
                settings.no_repeat_ngram_size = 2
                draw.odd.append("no_repeat_ngram_size")
            case "shortest":
                settings.min_new_tokens = 3
                draw.odd.append("min_new_tokens")


def _move_rules(path: Path) -> None:
    """Some models say in config.json alone how they write."""
    settings = path / "generation_config.json"
    if not settings.exists():
        return
    given = json.loads(settings.read_text(encoding="utf-8"))
    known = {
        name: given[name] for name in ("eos_token_id", "decoder_start_token_id", "forced_eos_token_id") if name in given
    }
    if known.keys() == given.keys() - {"_from_model_config", "transformers_version", "use_cache", "pad_token_id"}:
        settings.unlink()
        described = json.loads((path / "config.json").read_text(encoding="utf-8"))
        (path / "config.json").write_text(json.dumps({**described, **known}), encoding="utf-8")


def _rename(folder: Folder, draw: Draw, dtype: torch.dtype) -> None:
    """Stores a tied tensor under its other name, or under both, and puts the name of a wrapper before all."""
    file, (one, other) = folder.path / "model.safetensors", TIED[folder.kind]
    tensors = {name: tensor.to(dtype) for name, tensor in safetensors.torch.load_file(file).items()}
    head, embedding = folder.model.get_output_embeddings(), folder.model.get_input_embeddings()
    if head is not None and head.weight is embedding.weight and one in tensors:
        way = draw.choice(["one", "other", "both", "different"])
        if way == "other":
            tensors[other] = tensors.pop(one)
        elif way == "both":
            tensors[other] = tensors[one].clone()
        elif way == "different" and draw.random() < 0.3:
            tensors[other] = tensors[one] + 1
            folder.odd += [one, other]
    wrapper = draw.choice(["", "", "", "_orig_mod.", "module.", "module._orig_mod."])
    safetensors.torch.save_file({wrapper + name: tensor for name, tensor in tensors.items()}, file)


def _quantise(folder: Folder, draw: Draw) -> None:
    if draw.random() > 0.04:
        return
    path = folder.path / "config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["quantization_config"] = {"quant_method": draw.choice(["gptq", "bitsandbytes", "fp8"])}
    folder.odd.append("quant_method")
    path.write_text(json.dumps(described), encoding="utf-8")
