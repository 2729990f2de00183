"""`load_pretrained` and `save_pretrained`: folders there and back, what is refused, and the memory that it takes."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from tiny_run import ROOT

from research.core.errors import UserError
from research.core.shapes import Spec
from research.core.trees import flatten
from research.data.text.tokenizers import Bytes, TokenizerConfig
from research.hub.families import FAMILIES
from research.hub.llama import configuration, to_json
from research.hub.pretrained import describe, load_pretrained, save_pretrained
from research.hub.weights import INDEX, SINGLE, open_folder, write_folder
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.layers.rotary import Rotary
from research.models.llama import Llama
from research.models.t5 import T5
from research.models.transformer import Transformer

VOCABULARY = 12
LLAMA = Llama(depth=2, width=16, heads=4, num_kv_heads=2, head_dim=4, mlp_dim=20)
GEMMA = Llama(3, 16, 4, 1, 6, 20, window=4, global_blocks=(1,), query_key_norm=True, query_scale=9)
MODELS: dict[str, Any] = {
    "gpt": GPT(depth=2, width=16, heads=4, mlp_dim=20),
    "gpt untied": GPT(depth=2, width=16, heads=2, mlp_dim=20, tied=False, dropout=0.1, activation="relu"),
    "llama": dataclasses.replace(LLAMA, attention_bias=True, mlp_bias=True, tied=True),
    "llama stretched": dataclasses.replace(LLAMA, rotary=Rotary(5e5, "llama3", 8.0, 32), epsilon=1e-3),
    "qwen": dataclasses.replace(LLAMA, query_key_norm=True, window=3, global_blocks=(0,)),
    "gemma": dataclasses.replace(
        GEMMA,
        output_norms=True,
        scaled_embedding=True,
        activation="geglu",
        tied=True,
        rotary=Rotary(1e6, "linear", 2.0),
    ),
    "mistral": dataclasses.replace(LLAMA, window=3, rotary=Rotary(1e3), window_rotary=Rotary(1e3)),
    "qwen2": dataclasses.replace(
        LLAMA, attention_bias=True, attention_output_bias=False, context=8, rotary=Rotary(1e4, "dynamic", 2.0, 8)
    ),
    "distilbert": BERT(2, 16, 4, 20, 8, VOCABULARY, token_types=0, pooler_activation="relu"),
    "bert": BERT(depth=2, width=16, heads=4, mlp_dim=20, context=8, head="masked", vocabulary=VOCABULARY),
    "t5": T5(depth=2, decoder_depth=2, width=16, heads=4, head_dim=4, mlp_dim=20),
    "marian": Transformer(
        2, 2, 16, 4, 20, sinusoid="halves", head_bias=True, epsilon=1e-5, activation="silu", tied=True
    ),
}


@functools.cache
def initial(config: Any, outputs: int = VOCABULARY) -> Any:
    """Parameters of the model's shapes, random so that each can be told from the others."""
    model = config.build(Spec(outputs))
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape, np.float32)), shapes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a small Llama."""
    save_pretrained(tmp_path / "model", LLAMA, initial(LLAMA))
    return tmp_path / "model"


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("limit", [5_000, 1 << 30])
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_comes_back(tmp_path, name, limit):
    """The same configuration, the same parameters, in one file or in shards, and described without reading them."""
    config = MODELS[name]
    params = initial(config)
    save_pretrained(tmp_path, config, params, limit=limit)
    assert (tmp_path / INDEX).exists() == (limit == 5_000)
    loaded = load_pretrained(tmp_path)
    rotary = {"window_rotary": Rotary()} if name == "qwen" else {}
    assert dataclasses.replace(loaded.config, **rotary) == config
    assert describe(tmp_path)[:2] == (loaded.config, loaded.outputs)
    assert (loaded.outputs, loaded.new, loaded.left, loaded.tokenizer) == (VOCABULARY, (), (), None)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), loaded.params, params)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)


@pytest.mark.parametrize(
    "rotary",
    [
        Rotary(5e5, "yarn", 4.0, 32, 0.5, 16.0, 1.25, whole_pairs=False),
        Rotary(1e4, "yarn", 2.0, 32, 1.0, 32.0),
        Rotary(1e4, "dynamic", 3.0, 64),
    ],
)
def test_rotary_positions_are_written_and_come_back(rotary):
    """In both ways in which config.json says them."""
    shapes = {"token_embedding": (VOCABULARY, 16), "block_0/mlp/up/kernel": (16, 20)}
    written = to_json(dataclasses.replace(LLAMA, rotary=rotary), shapes)
    for name in ("rope_scaling", "rope_parameters"):
        described = {field: value for field, value in written.items() if field != name}
        assert configuration(described)[0].rotary == rotary


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "'longrope' of config.json is none of"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "for each kind of layer"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' to 0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "'partial_rotary_factor'"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 2}, "layer_types in config.json"),
    ],
)
def test_positions_that_the_model_lacks_are_refused_by_name(fields, words, saved):
    """Of the rotary embedding and of windows."""
    edit(saved / "config.json", **{"rope_scaling": None, **fields})
    with pytest.raises(UserError, match=words):
        describe(saved)


def test_a_dynamic_model_writes_no_further_than_its_context():
    """Beyond it the turns of a text change with its length, also those of keys that a cache has already."""
    assert MODELS["qwen2"].build(Spec(VOCABULARY)).decoding.context == 8
    assert LLAMA.build(Spec(VOCABULARY)).decoding.context == 0


def test_every_family_is_tested_here():
    """A new family has its round trip in this file."""
    assert {family.config for family in FAMILIES} == {type(config) for config in MODELS.values()}


def test_scanned_blocks_are_saved_as_others(tmp_path):
    """A GPT with stacked parameters is written block by block, and comes back unrolled."""
    config = dataclasses.replace(MODELS["gpt"], scan=True)
    params = initial(config)
    save_pretrained(tmp_path, config, params)
    loaded = load_pretrained(tmp_path)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), loaded.params["block_0"], loaded.params["block_1"])
    jax.tree.map(np.testing.assert_array_equal, stacked, params["blocks"])
    tokens = jnp.asarray([[3, 1, 4, 1, 5]], jnp.int32)
    expected = jax.jit(config.build(Spec(VOCABULARY)).apply)(params, {"inputs": tokens})[0]
    np.testing.assert_allclose(
        jax.jit(loaded.apply)(loaded.params, {"inputs": tokens})[0], expected, rtol=1e-4, atol=1e-4
    )


def test_sentences_become_vectors_as_the_folder_says(tmp_path):
    """By the first token where sentence-transformers' own file says so, else by the mean; other ways are refused."""
    config = dataclasses.replace(MODELS["bert"], head="embedding", pooling="first")
    save_pretrained(tmp_path, config, initial(config, 16))
    assert describe(tmp_path)[0] == config
    edit(tmp_path / "config.json", sentence_pooling="pooling_mode_mean_tokens")
    assert describe(tmp_path)[0] == dataclasses.replace(config, pooling="mean")
    (tmp_path / "1_Pooling").mkdir()
    modes = tmp_path / "1_Pooling/config.json"
    modes.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false, "include_prompt": true}')
    assert describe(tmp_path)[0] == config == load_pretrained(tmp_path).config
    modes.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(UserError, match="'pooling_mode_max_tokens', which is none of"):
        load_pretrained(tmp_path)


def test_a_tokenizer_goes_along(tmp_path):
    """One that was trained here is read back with its special tokens; bytes have no form there and are refused."""
    tokenizer = TokenizerConfig("wordpiece", 64).train(["the cat sat on the mat", "a dog"])
    config = MODELS["gpt"]
    save_pretrained(tmp_path, config, initial(config, tokenizer.vocabulary_size), tokenizer)
    found = load_pretrained(tmp_path).tokenizer
    np.testing.assert_array_equal(found.encode("the dog sat"), tokenizer.encode("the dog sat"))
    np.testing.assert_array_equal(found.encode_pair("the", "dog").ids, tokenizer.encode_pair("the", "dog").ids)
    assert found.special_id("sep") == tokenizer.special_id("sep") is not None
    with pytest.raises(UserError, match="Bytes has no form"):
        save_pretrained(tmp_path, config, initial(config), Bytes())


def test_a_head_that_the_file_lacks_is_drawn(tmp_path):
    """BERT's trunk with three labels: the trunk is the file's, the head new, of the shape asked for, and named."""
    save_pretrained(tmp_path, MODELS["bert"], initial(MODELS["bert"]))
    trunk = load_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path, head="sequence", outputs=3)
    assert {"head/kernel", "head/bias"} <= set(loaded.new)
    assert loaded.params["head"]["kernel"].shape == (16, 3) and loaded.outputs == 3
    assert any("cls.predictions" in name for name in loaded.left)
    shared = flatten(loaded.params).keys() - set(loaded.new)
    assert len(shared) == len(flatten(trunk.params)) - 5  # all but what predicts masked tokens
    for path in shared:
        np.testing.assert_array_equal(flatten(loaded.params)[path], flatten(trunk.params)[path])
    save_pretrained(tmp_path / "labels", loaded.config, loaded.params)
    again = load_pretrained(tmp_path / "labels", head="sequence", outputs=5)  # another number of labels: a new head
    assert set(again.new) == {"head/kernel", "head/bias"}
    with pytest.raises(UserError, match="name the head"):
        load_pretrained(tmp_path, outputs=3)


def test_missing_tensors_are_named_with_the_nearest(saved):
    """More blocks in config.json than in the file."""
    edit(saved / "config.json", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"model\.layers\.2\..*nearest: model\.layers\.[01]\."):
        load_pretrained(saved)


def test_tensors_that_nothing_explains_are_named(saved):
    """Fewer blocks in config.json than in the file would be another model."""
    edit(saved / "config.json", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"does not explain: model\.layers\.1\."):
        load_pretrained(saved)


def test_other_shapes_are_named(saved):
    """The shape found and the shape that config.json means."""
    edit(saved / "config.json", vocab_size=13)
    with pytest.raises(UserError, match=r"embed_tokens\.weight is \[12, 16\], not \[13, 16\]"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"auto_map": {"AutoModel": "modeling.Evil"}}, "auto_map"),
        ({"model_type": "mamba"}, "model_type 'mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'factor'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ({"hidden_size": "16"}, "lacks a field or has an odd one"),
        ({"num_attention_heads": 0}, "lacks a field or has an odd one|heads is 0"),
        ({"rope_parameters": 3}, "lacks a field or has an odd one"),
        ({"rope_theta": 0, "rope_parameters": None}, "base is 0"),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 0}}, "base is 0"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e5}}, "gives rope_theta twice"),
        ({"head_dim": 0}, "sets 'head_dim' to 0, and a model has at least 1"),
    ],
)
def test_odd_descriptions_are_refused(saved, fields, words):
    """Code of others, models that are not known, options that ours lacks, and nonsense."""
    edit(saved / "config.json", **fields)
    for function in (load_pretrained, describe):
        with pytest.raises(UserError, match=words):
            function(saved)


def test_a_lacking_field_is_named(saved):
    """A config.json without the width."""
    described = json.loads((saved / "config.json").read_text())
    del described["hidden_size"]
    (saved / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="hidden_size"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GPT(depth=1, width=8, heads=2, positions="rotary"), "positions='rotary'"),
        (GPT(depth=1, width=8, heads=2, bias=False), "bias=False"),
        (dataclasses.replace(LLAMA, window=3, global_blocks=(1,)), "window=3"),
        (dataclasses.replace(LLAMA, window=3, attention_bias=True), "attention_bias=True"),
        (dataclasses.replace(LLAMA, attention_output_bias=True), "attention_output_bias=True"),
        (dataclasses.replace(LLAMA, rotary=Rotary(1e4, "dynamic", 2.0, 32)), "context=64"),
        (dataclasses.replace(LLAMA, scaled_embedding=True), "mixture of options"),
        (dataclasses.replace(LLAMA, query_scale=7), "query_scale=7"),
    ],
)
def test_what_has_no_form_is_refused(tmp_path, config, words):
    """The option that stands in the way is named, and nothing is written."""
    with pytest.raises(UserError, match=words):
        save_pretrained(tmp_path, config, initial(config))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["no/such/folder", "nowhere", "../x", "model.gguf"])
def test_a_source_that_is_none_is_refused(source):
    """Nothing is fetched for what is no name of a model."""
    with pytest.raises(UserError, match="neither a folder"):
        load_pretrained(source)


def test_fetching_without_the_package_is_told(monkeypatch):
    """In one sentence."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="huggingface_hub is missing"):
        load_pretrained("organisation/model")


def test_fetching_asks_for_the_revision_and_for_no_code(monkeypatch, saved):
    """Safetensors, JSON and text only; what comes is loaded; a failure is one sentence."""
    asked = {}

    class Hub:
        @staticmethod
        def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            if name == "organisation/gone":
                raise ConnectionError("no network\nand much more")
            asked.update(name=name, revision=revision, patterns=allow_patterns)
            return str(saved)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    assert load_pretrained("organisation/model", revision="v2").config == LLAMA
    assert (asked["name"], asked["revision"]) == ("organisation/model", "v2")
    assert not [pattern for pattern in asked["patterns"] if pattern.endswith((".py", ".bin", "*"))]
    with pytest.raises(UserError, match=r"cannot be fetched \(no network\)"):
        load_pretrained("organisation/gone")


def test_saving_twice_replaces(saved):
    """The second model is what is there."""
    other = initial(dataclasses.replace(LLAMA, depth=1))
    save_pretrained(saved, dataclasses.replace(LLAMA, depth=1), other, limit=1000)
    assert not (saved / SINGLE).exists()
    assert load_pretrained(saved).config.depth == 1


LOAD = """
import json, re, sys
import jax, jax.numpy as jnp, numpy as np
from research.core.mesh import MeshConfig
from research.hub.pretrained import load_pretrained

def kilobytes(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

jnp.zeros(3).block_until_ready()
before = kilobytes("VmRSS")
mesh = MeshConfig(fsdp=2, tensor=2).build() if len(jax.devices()) == 4 else None
params = load_pretrained(sys.argv[1], mesh=mesh).params
jax.block_until_ready(params)
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
kernel = params["block_0"]["mlp"]["up"]["kernel"]
total = sum(float(np.abs(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(params)) if mesh else 0
print(json.dumps({"peak": 1024 * (kilobytes("VmHWM") - before), "size": size, "total": total,
                  "part": kernel.addressable_shards[0].data.shape, "whole": kernel.shape}))
"""


def load_elsewhere(folder: Path, devices: int) -> dict[str, Any]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOAD, str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_parameters_go_to_their_devices(saved):
    """On a mesh of four devices, each has its quarter of a kernel, by the model's rules, and the values are right."""
    found = load_elsewhere(saved, devices=4)
    assert (found["whole"], found["part"]) == ([16, 20], [8, 10])
    expected = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(initial(LLAMA)))
    assert found["total"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a program's peak memory")
def test_loading_peaks_at_no_more_than_a_fifth_above_the_parameters(tmp_path):
    """500 MB in safetensors, a fifth of it an untied head that must be turned round: 1.2 times that at the most."""
    config = dataclasses.replace(LLAMA, depth=6, width=1024, heads=8, num_kv_heads=8, head_dim=128, mlp_dim=2816)
    shapes = jax.eval_shape(
        config.build(Spec(24_000)).init, jax.random.key(0), {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)}
    )
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    save_pretrained(tmp_path, config, zeros, limit=1 << 27)
    found = load_elsewhere(tmp_path, devices=1)
    assert found["size"] >= 4.9e8
    assert found["peak"] <= 1.2 * found["size"]


def rewrite(folder: Path, change: Any) -> None:
    """Replaces a folder's tensors, given as arrays by name."""
    stored = open_folder(folder)
    write_folder(folder, change({name: stored.read(name) for name in stored.shapes}).items(), 1 << 30)


TIED = {
    "gpt": ("transformer.wte.weight", "lm_head.weight"),
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "t5": ("shared.weight", "lm_head.weight"),
    "marian": ("model.shared.weight", "lm_head.weight"),
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_tensor_may_be_stored_under_either_name(name, tmp_path):
    """Of two names for one tensor a file keeps the one that its writer met first; both, if equal, are fine as well."""
    config, (embedding, head) = MODELS[name], TIED[name]
    params = initial(config)
    save_pretrained(tmp_path, config, params)
    rewrite(tmp_path, lambda found: {head if each == embedding else each: array for each, array in found.items()})
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path).params, params)
    rewrite(tmp_path, lambda found: {**found, embedding: found[head]})
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path).params, params)
    rewrite(tmp_path, lambda found: {**found, head: found[head] + 1})
    with pytest.raises(UserError, match=r"has .*weight and .*weight with other values: set tie_word_embeddings"):
        load_pretrained(tmp_path)


def test_an_untied_head_is_not_taken_from_the_embedding(tmp_path):
    """Where config.json does not tie them, a file without a head is not whole."""
    config = dataclasses.replace(LLAMA, tied=True)
    save_pretrained(tmp_path, config, initial(config))
    edit(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"lacks 1 tensors: lm_head.weight"):
        load_pretrained(tmp_path)


def test_a_t5_with_an_unscaled_tied_head_has_its_embedding_for_a_head(tmp_path):
    """Version 5 of transformers says by scale_decoder_outputs that a tied head is not scaled."""
    config = dataclasses.replace(MODELS["t5"], tied=False)
    params = initial(config)
    save_pretrained(tmp_path, config, params)
    rewrite(tmp_path, lambda found: {name: array for name, array in found.items() if name != "lm_head.weight"})
    edit(tmp_path / "config.json", tie_word_embeddings=True, scale_decoder_outputs=False)
    loaded = load_pretrained(tmp_path).params
    np.testing.assert_array_equal(loaded["head"]["kernel"], params["token_embedding"].T)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "_orig_mod.module.", "base_model.model."])
def test_the_names_of_wrappers_are_left_out(wrapper, saved):
    """As torch.compile, DistributedDataParallel and PEFT put them before every name."""
    params = load_pretrained(saved).params
    rewrite(saved, lambda found: {wrapper + name: array for name, array in found.items()})
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(saved).params, params)


@pytest.mark.parametrize("field", [{"quantization_config": {"quant_method": "gptq"}}, {"compression_config": {"a": 1}}])
def test_quantised_weights_are_refused_by_the_name_of_their_method(field, saved):
    """Their integers are no weights; the sentence says what to take instead."""
    edit(saved / "config.json", **field)
    with pytest.raises(UserError, match=r"quantised by '(gptq|unknown)'.*take the model that it was made from"):
        load_pretrained(saved)
    with pytest.raises(UserError, match="quantised by"):
        describe(saved)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.bool_])
def test_whole_numbers_are_no_weights(dtype, saved):
    """Also where config.json says nothing of a quantisation."""
    rewrite(saved, lambda found: {name: array.astype(dtype) for name, array in found.items()})
    with pytest.raises(UserError, match=f"in the type {np.dtype(dtype)}, no fractions, so its weights are quantised"):
        load_pretrained(saved)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float16, np.float64])
def test_small_and_large_fractions_are_weights(dtype, saved):
    """Types that hold fractions are read as what they are."""
    params = load_pretrained(saved).params
    rewrite(saved, lambda found: {name: array.astype(dtype) for name, array in found.items()})
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype).astype(np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(saved).params, expected)


def test_what_half_precision_keeps_is_not_lost_where_gemma_adds_1(tmp_path):
    """Its files have the scale of a norm less 1: added in bfloat16 itself, 0.01 would become 0.0078."""
    save_pretrained(tmp_path, MODELS["gemma"], initial(MODELS["gemma"]))
    rewrite(
        tmp_path, lambda found: {name: (0.01 + 0 * array).astype(ml_dtypes.bfloat16) for name, array in found.items()}
    )
    scale = np.float32(ml_dtypes.bfloat16(0.01)) + np.float32(1)
    np.testing.assert_array_equal(load_pretrained(tmp_path).params["final_norm"]["scale"], np.full(16, scale))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_a_weight_that_is_no_number_is_refused_by_the_name_of_its_tensor(name, value, saved):
    """One is enough for outputs that are none; a number that float32 cannot hold becomes one."""

    def spoilt(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = {each: array.astype(np.float64) for each, array in found.items()}
        found[name].reshape(-1)[3] = value
        return found

    rewrite(saved, spoilt)
    with pytest.raises(UserError, match=rf"has numbers in {name} that are NaN, infinite or too large"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["Transformer", "Pooling"], None),
        (["Transformer", "Pooling", "Normalize"], None),
        (
            ["Transformer", "Pooling", "Dense"],
            "lists the modules Transformer, Pooling, Dense; a model here goes through",
        ),
        (["Transformer", "Pooling", "Dense", "Normalize"], "Dense"),
        (["Transformer", "LSTM", "Pooling"], "LSTM"),
        (["Pooling"], "Pooling"),
    ],
)
def test_modules_that_are_not_applied_are_refused_by_name(kinds, message, tmp_path):
    """A dense layer after the pooling would give other numbers, and another count of them."""
    config = BERT(depth=1, width=16, heads=4, mlp_dim=20, context=8, head="embedding", vocabulary=VOCABULARY)
    save_pretrained(tmp_path, config, initial(config))
    folders = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": folders.get(kind, "2_Other")} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    for read in (describe, load_pretrained):
        if message is None:
            assert read(tmp_path).outputs == 16
        else:
            with pytest.raises(UserError, match=message):
                read(tmp_path)
