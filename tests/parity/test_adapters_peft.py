"""LoRA adapters against the PEFT library: what one side writes gives the other the same logits.

Tiny models with random parameters; both factors of every update are random too, so that none is without effect.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from research.core import trees
from research.hub import adapters
from research.hub.adapters import save_adapter
from research.hub.pretrained import load_pretrained
from research.models.wrappers.lora import LoRA, with_lora

pytestmark = pytest.mark.peer

TOLERANCE = 1e-4
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ENCODER = SMALL | {"vocab_size": 40, "max_position_embeddings": 16, "num_labels": 5}
GROUPED = SMALL | {"vocab_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 16}
GPT2 = {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
T5 = {"vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


class Case(NamedTuple):
    """A class of the transformers library, options of its configuration, and what PEFT adapts of it."""

    architecture: str
    options: dict[str, Any]
    lora: dict[str, Any]


CASES = {
    "bert": Case(
        "BertForSequenceClassification",
        ENCODER,
        {"task_type": "SEQ_CLS", "target_modules": ["query", "value"], "modules_to_save": ["pooler"]},
    ),
    "bare bert": Case("BertModel", ENCODER, {"task_type": "FEATURE_EXTRACTION", "target_modules": ["key", "dense"]}),
    "roberta": Case(
        "RobertaForSequenceClassification",
        ENCODER | {"type_vocab_size": 1, "pad_token_id": 1},
        {"task_type": "SEQ_CLS", "target_modules": "all-linear", "use_rslora": True},
    ),
    "llama": Case(
        "LlamaForCausalLM",
        GROUPED,
        {
            "task_type": "CAUSAL_LM",
            "target_modules": ["q_proj", "k_proj", "o_proj", "down_proj"],
            "rank_pattern": {"k_proj": 2, "layers.1.mlp.down_proj": 5},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 11, "q_proj": 2, "down_proj": 7},
            "modules_to_save": ["lm_head", "model.norm"],
        },
    ),
    "gpt2": Case(
        "GPT2LMHeadModel",
        GPT2,
        {"task_type": "CAUSAL_LM", "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    ),
    "t5": Case(
        "T5ForConditionalGeneration",
        T5,
        {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "k", "v", "o", "wi", "wo"]},
    ),
}


@pytest.fixture(params=CASES)
def case(request: Any) -> Case:
    return CASES[request.param]


def random_base(case: Case, folder: Path) -> Any:
    """A model of the library with random parameters, saved in a folder."""
    torch.manual_seed(0)
    model_class = getattr(transformers, case.architecture)
    options = {"add_pooling_layer": False} if case.architecture == "BertModel" else {}
    model = model_class(model_class.config_class(**case.options), **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.25).add_(parameter.ndim == 1 and not name.endswith("bias"))
    model.save_pretrained(folder)
    return model


def opened(case: Case, base: Path, adapter: Path) -> Any:
    """What PEFT makes of an adapter over its base."""
    model = getattr(transformers, case.architecture).from_pretrained(base)
    return peft.PeftModel.from_pretrained(model, adapter).eval()


def tokens(case: Case) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    made = {"inputs": random.integers(4, 40, (2, 9)).astype(np.int32)}
    return made | ({"decoder_inputs": made["inputs"][:, ::-1].copy()} if "T5" in case.architecture else {})


def their_logits(case: Case, model: Any) -> np.ndarray:
    names = {"inputs": "input_ids", "decoder_inputs": "decoder_input_ids"}
    with torch.no_grad():
        outputs = model(**{names[name]: torch.tensor(ids).long() for name, ids in tokens(case).items()})
        return (outputs[0].mean(1) if case.architecture == "BertModel" else outputs.logits).numpy()


def our_logits(case: Case, apply: Any, params: Any) -> np.ndarray:
    outputs = np.asarray(apply(params, {name: jnp.asarray(ids) for name, ids in tokens(case).items()})[0])
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs


def trained_by_peft(case: Case, folder: Path) -> Any:
    """A PEFT model with random updates and random whole layers; saved, as PEFT saves it."""
    base = random_base(case, folder / "base")
    base.name_or_path = str(folder / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **case.lora)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder / "adapter")
    return model


def adapted_by_us(case: Case, folder: Path) -> tuple[Any, Any]:
    """Our model with random updates of every kernel, and a random head where there is one; saved as an adapter."""
    random_base(case, folder / "base")
    loaded, lora, random = load_pretrained(folder / "base"), LoRA(rank=3, alpha=5.0), np.random.default_rng(1)
    model, kept = with_lora(loaded.model, lora), trees.flatten(loaded.params)
    trained = {path for path in kept if path.startswith(("head/", "pooler/"))}

    def changed(path: str, leaf: Any) -> Any:
        moved = path in trained or path not in kept
        return jnp.asarray(random.normal(0, 0.3, leaf.shape), jnp.float32) if moved else kept[path]

    params = trees.map_with_path(changed, model.init(jax.random.key(0), {"inputs": jnp.zeros((1, 1), jnp.int32)}))
    save_adapter(folder / "adapter", loaded.config, params, lora, str(folder / "base"), trained=trained)
    return model.apply, params


def test_peft_adapters_give_us_the_same_logits(case, tmp_path) -> None:
    """Whatever they adapt: other scales and ranks by layer, layers saved whole, and kernels stored the other way."""
    theirs = trained_by_peft(case, tmp_path)
    loaded = load_pretrained(tmp_path / "adapter")
    expected = their_logits(case, theirs)
    np.testing.assert_allclose(our_logits(case, loaded.apply, loaded.params), expected, rtol=0, atol=TOLERANCE)
    base = load_pretrained(tmp_path / "base")
    assert np.abs(our_logits(case, base.apply, base.params) - expected).max() > 0.1


def test_our_adapters_give_peft_the_same_logits(case, tmp_path) -> None:
    """Joined kernels apart, over the base that the library itself saved."""
    apply, params = adapted_by_us(case, tmp_path)
    found = their_logits(case, opened(case, tmp_path / "base", tmp_path / "adapter"))
    np.testing.assert_allclose(found, our_logits(case, apply, params), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("broken", ["scale", "order"])
def test_a_broken_side_is_seen(broken, tmp_path, monkeypatch) -> None:
    """With a wrong scale, or the parts of a joined update exchanged, the logits differ by far more than tolerated."""
    case = CASES["llama"]
    if broken == "scale":
        monkeypatch.setattr(adapters.Adapter, "_scale", lambda self, module, rank: 1.0)
        theirs = their_logits(case, trained_by_peft(case, tmp_path))
        loaded = load_pretrained(tmp_path / "adapter")
        assert np.abs(our_logits(case, loaded.apply, loaded.params) - theirs).max() > 100 * TOLERANCE
        return
    factors = adapters._factors

    def exchanged(tensor: Any, *others: Any) -> Any:
        names = tensor.names if len(tensor.names) < 3 else (tensor.names[0], tensor.names[2], tensor.names[1])
        return factors(tensor._replace(names=names), *others)

    monkeypatch.setattr(adapters, "_factors", exchanged)
    apply, params = adapted_by_us(case, tmp_path)
    found = their_logits(case, opened(case, tmp_path / "base", tmp_path / "adapter"))
    assert np.abs(found - our_logits(case, apply, params)).max() > 100 * TOLERANCE
