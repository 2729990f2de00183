"""Promises of adapters: laid over their base again they are the updates merged; what is not plain LoRA is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from research.core import trees
from research.core.errors import UserError
from research.core.shapes import Spec
from research.hub.adapters import SETTINGS, TENSORS, save_adapter
from research.hub.pretrained import describe, load_pretrained, save_pretrained
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.llama import Llama
from research.models.t5 import T5
from research.models.wrappers.lora import BRANCH, LoRA, merged, with_lora

LORA = LoRA(rank=2, alpha=3.0)
BERT_LABELS = BERT(depth=2, width=16, heads=4, mlp_dim=20, context=8, head="sequence", vocabulary=12)
MODELS = {
    "gpt": GPT(depth=2, width=16, heads=4, mlp_dim=20),
    "gpt scanned": GPT(depth=2, width=16, heads=2, mlp_dim=20, scan=True),
    "llama": Llama(depth=2, width=16, heads=4, num_kv_heads=2, head_dim=4, mlp_dim=20),
    "bert": BERT_LABELS,
    "t5": T5(depth=1, decoder_depth=1, width=16, heads=4, head_dim=4, mlp_dim=20),
}


def adapted(config, lora=LORA, outputs=12):
    """Random parameters of a model with low-rank updates."""
    model = with_lora(config.build(Spec(outputs)), lora)
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape, np.float32)), shapes)


@pytest.fixture
def saved(tmp_path):
    """A folder with an adapter of a BERT that tells three classes, over a base that has no such head."""
    params = adapted(BERT_LABELS, outputs=3)
    bare = {name: branch for name, branch in params.items() if name not in (BRANCH, "head", "pooler")}
    base = BERT(depth=2, width=16, heads=4, mlp_dim=20, context=8, head="embedding", pooling="mean", vocabulary=12)
    save_pretrained(tmp_path / "base", base, bare)
    trained = ("head/kernel", "head/bias", "pooler/kernel", "pooler/bias")
    save_adapter(tmp_path / "adapter", BERT_LABELS, params, LORA, str(tmp_path / "base"), trained=trained)
    return tmp_path / "adapter", params


@pytest.mark.parametrize("name", MODELS)
def test_written_and_loaded_an_adapter_is_merged(name, tmp_path) -> None:
    """The base's parameters with the updates added, whatever way the family joins, turns and stacks its kernels."""
    config, params = MODELS[name], adapted(MODELS[name])
    save_pretrained(tmp_path / "base", config, {key: branch for key, branch in params.items() if key != BRANCH})
    save_adapter(tmp_path / "adapter", config, params, LORA, str(tmp_path / "base"))
    loaded = load_pretrained(tmp_path / "adapter")
    expected = trees.flatten(merged(params, LORA))
    if name == "gpt scanned":  # published, its blocks are apart
        loaded_params = loaded.params
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), loaded_params["block_0"], loaded_params["block_1"])
        found = {key: leaf for key, leaf in loaded_params.items() if not key.startswith("block_")}
        found = trees.flatten({**found, "blocks": stacked})
    else:
        found = trees.flatten(loaded.params)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)


def test_an_adapter_brings_its_head(saved) -> None:
    """Head and pooler, trained beside the updates, come with it, and so does the number of labels."""
    folder, params = saved
    loaded = load_pretrained(folder)
    assert (loaded.outputs, loaded.config.head, loaded.new) == (3, "sequence", ())
    assert describe(folder)[:2] == (loaded.config, 3)
    np.testing.assert_array_equal(loaded.params["head"]["kernel"], params["head"]["kernel"])
    np.testing.assert_array_equal(loaded.params["pooler"]["kernel"], params["pooler"]["kernel"])


def edit(folder, **settings):
    """Changes adapter_config.json."""
    path = folder / SETTINGS
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_the_scale_is_read_as_peft_means_it(saved) -> None:
    """alpha / sqrt(r) where the settings ask for it, and another alpha where a pattern names the layer."""
    folder, params = saved
    plain = trees.flatten(params)["block_0/mlp/up/kernel"]

    def update():
        return np.asarray(trees.flatten(load_pretrained(folder).params)["block_0/mlp/up/kernel"] - plain)

    once = update()
    edit(folder, use_rslora=True)
    np.testing.assert_allclose(update(), once * np.sqrt(2), rtol=1e-3, atol=1e-4)
    edit(folder, use_rslora=False, alpha_pattern={"layer.1.intermediate.dense": 9.0, "intermediate.dense": 6.0})
    np.testing.assert_allclose(update(), once * 2, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "'use_dora' to True, which is not plain LoRA"),
        ({"bias": "lora_only"}, "'bias' to 'lora_only'"),
        ({"peft_type": "IA3"}, "'peft_type' to 'IA3'"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' to 'pissa'"),
        ({"alora_invocation_tokens": [1]}, "'alora_invocation_tokens'"),
        ({"something_new": 1}, "'something_new' to 1"),
        ({"base_model_name_or_path": "../secret"}, "cannot name '../secret' as its base"),
        ({"base_model_name_or_path": None}, "names no base"),
        ({"lora_alpha": "8"}, "the alpha '8'"),
        ({"lora_alpha": float("nan")}, "the alpha nan"),
        ({"task_type": ["SEQ_CLS"]}, "no word"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "no table of layers' names"),
    ],
)
def test_what_is_not_plain_lora_is_refused(settings, message, saved) -> None:
    """In one sentence, before a tensor is read."""
    edit(saved[0], **settings)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        load_pretrained(saved[0])


def test_tensors_that_do_not_fit_are_refused(saved) -> None:
    """Layers that the base does not have, factors of other shapes, forms of other methods, and pickles."""
    folder, _ = saved
    good = safetensors.numpy.load_file(folder / TENSORS)
    layer = "base_model.model.bert.encoder.layer.0.intermediate.dense"
    down, up = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
    other = layer.replace("layer.0", "layer.7")
    changes = {
        "which is no layer of": {f"{other}.lora_A.weight": good[down], f"{other}.lora_B.weight": good[up]},
        "of another shape": {up: good[up][:-1]},
        "none of plain LoRA": {f"{layer}.lora_magnitude_vector": good[up][:, 0]},
    }
    for message, changed in changes.items():
        safetensors.numpy.save_file({**good, **changed}, folder / TENSORS)
        with pytest.raises(UserError, match=message):
            load_pretrained(folder)
    (folder / TENSORS).rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match="can hold code"):
        load_pretrained(folder)


def test_what_an_adapter_cannot_say_is_not_written(tmp_path) -> None:
    """A norm trained besides, updates of an embedding, and no updates at all."""
    params = adapted(MODELS["gpt"])
    with pytest.raises(UserError, match="'final_norm/scale' was trained besides"):
        save_adapter(tmp_path, MODELS["gpt"], params, LORA, "base", trained=("final_norm/scale",))
    embedding = LoRA(rank=2, pattern="token_embedding$")
    with pytest.raises(UserError, match="'token_embedding' is no linear layer"):
        save_adapter(tmp_path, MODELS["gpt"], adapted(MODELS["gpt"], embedding), embedding, "base")
    with pytest.raises(UserError, match="no low-rank updates"):
        save_adapter(tmp_path, MODELS["gpt"], {k: v for k, v in params.items() if k != BRANCH}, LORA, "base")


def test_an_embedding_that_is_the_output_head_too_is_not_changed(tmp_path) -> None:
    """PEFT changes one of the two alone, which tied parameters cannot."""
    config, params = MODELS["gpt"], adapted(MODELS["gpt"])
    save_pretrained(tmp_path / "base", config, {key: branch for key, branch in params.items() if key != BRANCH})
    save_adapter(tmp_path / "adapter", config, params, LORA, str(tmp_path / "base"))
    good = safetensors.numpy.load_file(tmp_path / "adapter" / TENSORS)
    for name, message in (("transformer.wte", "output head as well"), ("lm_head", "does not have")):
        embedding = {f"base_model.model.{name}.weight": np.zeros((12, 16), np.float32)}
        safetensors.numpy.save_file({**good, **embedding}, tmp_path / "adapter" / TENSORS)
        with pytest.raises(UserError, match=message):
            load_pretrained(tmp_path / "adapter")
