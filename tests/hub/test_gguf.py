"""GGUF: the models of llama.cpp read as those they were made from, and no length or offset used unchecked."""

import dataclasses
import math
import tracemalloc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf_file import gguf_bytes, write
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.core.shapes import Spec
from research.core.trees import flatten
from research.hub.gguf import open_file
from research.hub.llama import tensors
from research.hub.pretrained import describe, load_pretrained
from research.models.layers.rotary import Rotary
from research.models.llama import Llama

VOCABULARY = 12
LLAMA = Llama(2, 16, 4, 2, 4, 20, epsilon=1e-5, context=32)
NAMES = {  # by the names of Hugging Face's layers
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
MODELS = {
    "llama": LLAMA,
    "llama, biases": dataclasses.replace(LLAMA, attention_bias=True, tied=True, rotary=Rotary(5e5, "linear", 2.0)),
    "llama3": dataclasses.replace(LLAMA, head_dim=16, rotary=Rotary(5e5, "llama3", 32.0)),
    "qwen2": dataclasses.replace(
        LLAMA,
        attention_bias=True,
        attention_output_bias=False,
        rotary=Rotary(1e4, "yarn", 4.0, 16, 1.0, 32.0, 0.1 * math.log(4) + 1),
    ),
    "qwen3": dataclasses.replace(LLAMA, query_key_norm=True, head_dim=6),
    "gemma3": Llama(
        7,
        16,
        4,
        1,
        6,
        20,
        context=32,
        rotary=Rotary(1e6),
        window=4,
        global_blocks=(5,),
        query_key_norm=True,
        query_scale=6,
        output_norms=True,
        scaled_embedding=True,
        activation="geglu",
        tied=True,
    ),
}


def described(kind: str, config: Llama) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes for a model."""
    architecture = "gemma3" if config.output_norms else "qwen3" if config.query_key_norm else "llama"
    architecture = "qwen2" if config.output_bias != config.attention_bias else architecture
    fields = {
        "context_length": config.context,
        "embedding_length": config.width,
        "block_count": config.depth,
        "feed_forward_length": config.mlp_dim,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.epsilon,
        "rope.freq_base": config.rotary.base,
    }
    if config.rotary.scaling == "linear":
        fields |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rotary.factor}
    if config.rotary.scaling == "yarn":
        fields |= {"rope.scaling.type": "yarn", "rope.scaling.factor": config.rotary.factor}
        fields |= {"rope.scaling.original_context_length": config.rotary.original_context}
    if config.window:
        fields["attention.sliding_window"] = config.window
    return {"general.architecture": architecture} | {f"{architecture}.{name}": each for name, each in fields.items()}


def stored(config: Llama, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors that llama.cpp's converter writes."""
    found = {}
    leaves = flatten(params)
    for tensor in tensors(config):
        for name, part in zip(tensor.names, tensor.split(np.asarray(leaves[tensor.path])), strict=True):
            part = np.ascontiguousarray(part, np.float32)
            if config.output_norms and name.endswith("norm.weight"):
                part = part + 1
            if "llama" in described("", config)["general.architecture"] and (
                "q_proj" in name or "k_proj" in name
            ):  # pairs side by side
                pairs = part.reshape(-1, 2, config.head_dim // 2, *part.shape[1:])
                part = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(part.shape))
            found[gguf_name(name, config)] = part
    if config.rotary.scaling == "llama3":
        slower = Rotary(config.rotary.base).frequencies(config.head_dim) / config.rotary.frequencies(config.head_dim)
        found["rope_freqs.weight"] = np.asarray(slower)
    return found


def gguf_name(name: str, config: Llama) -> str:
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, kind = name.rpartition(".")
    if stem in whole:
        return f"{whole[stem]}.{kind}"
    _, _, index, layer = stem.split(".", 3)
    return f"blk.{index}.{(GEMMA_NAMES if config.output_norms else NAMES)[layer]}.{kind}"


def initial(config: Llama) -> Any:
    model = config.build(Spec(VOCABULARY))
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32), shapes)


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_model_is_the_one_it_was_made_from(tmp_path, name):
    """Configuration and parameters of every architecture, with what the converter moves put back."""
    config = MODELS[name]
    params = initial(config)
    path = write(tmp_path / "model.gguf", described(name, config), stored(config, params))
    loaded = load_pretrained(path)
    assert loaded.config == config == describe(path)[0]
    assert loaded.tokenizer is None
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), loaded.params, params)


def test_another_rotary_scaling_is_refused(tmp_path):
    """Factors that are not those of Llama 3 mean a model that is not known."""
    config = MODELS["llama3"]
    found = stored(config, initial(config))
    found["rope_freqs.weight"] = np.linspace(1, 32, 8, dtype=np.float32)
    with pytest.raises(UserError, match="not that of Llama 3"):
        load_pretrained(write(tmp_path / "model.gguf", described("llama3", config), found))


SHORT = {
    f"tokenizer.ggml.{name}": value
    for name, value in {"tokens": ["a", "b"], "scores": [0.5], "token_type": [1]}.items()
}
BYTES = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"]}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba'"),
        ({"general.architecture": 3}, "architecture 3"),
        ({"llama.block_count": "two"}, "odd one|metadata"),
        ({"llama.attention.head_count": 0}, "odd one|at least one"),
        ({"llama.block_count": 3}, "lacks"),
        ({"llama.block_count": 1}, "does not explain"),
        ({"general.alignment": 24}, "alignment"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.attn_factor": 1.5}, "rope.scaling.attn_factor"),
        ({"tokenizer.ggml.model": "wordpiece", "tokenizer.ggml.tokens": ["a"]}, "kind 'wordpiece'"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a", "a"]}, "twice"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]}, "scores"),
        ({"tokenizer.ggml.model": "llama", **SHORT}, "lacks an entry"),
        ({**BYTES, "tokenizer.ggml.merges": [1]}, "odd one"),
        ({**BYTES, "tokenizer.ggml.merges": ["b c"]}, "byte-pair"),
    ],
)
def test_odd_metadata_are_refused(tmp_path, metadata, words):
    """What is not known, what does not fit the tensors, and nonsense."""
    path = write(tmp_path / "model.gguf", described("llama", LLAMA) | metadata, stored(LLAMA, initial(LLAMA)))
    with pytest.raises(UserError, match=words):
        load_pretrained(path)


def test_an_unknown_kind_of_tensor_is_refused(tmp_path):
    """The kinds that are known are named."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(described("llama", LLAMA), {"x": np.zeros((2, 32), np.float32)}, kind=29))
    with pytest.raises(UserError, match=r"kind number 29.*Q4_K"):
        open_file(path)


SMALL = gguf_bytes(
    {"general.architecture": "llama", "llama.block_count": 1, "tokenizer.ggml.tokens": ["a", "b"]},
    {"token_embd.weight": np.ones((2, 32), np.float32), "output_norm.weight": np.ones(32, np.float32)},
)


@given(place=st.integers(0, len(SMALL) - 1), values=st.binary(min_size=1, max_size=9), cut=st.integers(0, 300))
def test_a_damaged_file_is_refused_or_read_within_its_size(tmp_path_factory, place, values, cut):
    """Whatever bytes change: a UserError, or tensors that fit the file; and memory stays small."""
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    whole = bytearray(SMALL)
    whole[place : place + len(values)] = values
    path.write_bytes(whole[: len(whole) - cut])
    tracemalloc.start()
    try:
        with pytest.raises(UserError):  # at the latest, the metadata lack the sizes of the model
            open_file(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
