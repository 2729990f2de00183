"""Damaged files of published models: read as a peer reads them, or one sentence, in bounded time and memory.

Bytes are flipped, cut, repeated and set to extremes; in JSON, values are replaced as well. The seeds are fixed.
"""

import importlib.util
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import tokenizers
from hub.gguf_file import gguf_bytes
from mutate import mutated_value, mutations
from safetensors import safe_open

from research.core.errors import UserError
from research.core.shapes import Spec
from research.data.text.tokenizers import TokenizerConfig
from research.hub import gguf, weights
from research.hub.pretrained import describe, load_pretrained, save_pretrained
from research.hub.tokenizer import open_tokenizer
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.layers.rotary import Rotary
from research.models.llama import Llama
from research.models.t5 import T5
from research.models.transformer import Transformer

MUTATIONS = 2000  # of each kind of file
SECONDS, KILOBYTES = 20, 2 * 2**20
TEXT = "A text, to try: 1234 déjà 漢字 \U0001f642 <mask> [MASK] </s>\n"
LLAMA = {"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 32} | {
    "llama.context_length": 16,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
VOCABULARY = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "▁", "▁a"]} | {
    "tokenizer.ggml.scores": [0.0, 0.0, -1.0, -2.0, -0.5],
    "tokenizer.ggml.token_type": [3, 3, 1, 1, 1],
    "tokenizer.ggml.eos_token_id": 1,
}
MODELS: dict[str, Any] = {
    "gpt2": GPT(depth=1, width=16, heads=2, mlp_dim=20),
    "llama": Llama(1, 16, 4, 2, 4, 20, rotary=Rotary(1e4, "yarn", 2.0, 32), attention_bias=True),
    "qwen3": Llama(2, 16, 4, 2, 4, 20, window=3, global_blocks=(0,), query_key_norm=True),
    "gemma3": Llama(
        2,
        16,
        4,
        1,
        6,
        20,
        window=4,
        global_blocks=(1,),
        query_key_norm=True,
        output_norms=True,
        scaled_embedding=True,
        activation="geglu",
        tied=True,
    ),
    "bert": BERT(depth=1, width=16, heads=4, mlp_dim=20, context=8, head="sequence", vocabulary=12),
    "distilbert": BERT(1, 16, 4, 20, 8, 12, token_types=0, epsilon=1e-12),
    "t5": T5(depth=1, width=16, heads=4, head_dim=4, mlp_dim=20),
    "marian": Transformer(
        1, 1, 16, 4, 20, sinusoid="halves", head_bias=True, epsilon=1e-5, activation="silu", tied=True
    ),
}


def survey(damaged: Iterator[bytes], path: Path, read: Callable[[int], None]) -> int:
    """Reads every damaged file: returns how many were read, the others being refused in one sentence."""
    before, accepted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number, content in enumerate(damaged):
        path.write_bytes(content)
        began = time.perf_counter()
        try:
            read(number)
            accepted += 1
        except UserError as error:
            text = str(error)
            assert text and text.isprintable() and len(text) < 2000, text
        except Exception as error:
            pytest.fail(f"mutation {number}, {content[:2000]!r}: {type(error).__name__}: {error}")
        assert time.perf_counter() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES
    return accepted


def damaged_json(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Every other copy has a value replaced, the others damaged bytes."""
    draw, value = Random(seed), json.loads(whole)
    for content in mutations(whole, count // 2, seed):
        yield content
        yield json.dumps(mutated_value(value, draw)).encode()


@pytest.mark.slow
def test_damaged_safetensors(tmp_path: Path) -> None:
    """What is read is what the format's own library reads, bit for bit; what that refuses is refused."""
    path, random = tmp_path / "model.safetensors", np.random.default_rng(0)
    dtypes = (np.float32, np.float16, ml_dtypes.bfloat16, np.int8)
    tensors = {f"layer.{number}": random.random((3, 2)).astype(dtype) for number, dtype in enumerate(dtypes)}
    tensors |= {"empty": np.zeros((0, 4), np.float32), "scalar": np.array(3.5, np.float64)}
    weights.write_file(path, tensors)

    def read(number: int) -> None:
        ours = weights.open_file(path)
        found = {name: ours.read(name) for name in ours.shapes}
        with safe_open(path, "numpy") as theirs:
            assert set(theirs.keys()) == set(found)
            for name, array in found.items():
                assert list(array.shape) == theirs.get_slice(name).get_shape()
                if not theirs.get_slice(name).get_dtype().startswith("F8"):  # of which NumPy has none
                    assert array.tobytes() == theirs.get_tensor(name).tobytes()

    def whole_read(number: int) -> None:
        try:
            read(number)
        except safetensors.SafetensorError as error:
            pytest.fail(f"mutation {number}, which the library refuses ({error}), is read")

    accepted = survey(mutations(path.read_bytes(), MUTATIONS, 0), path, whole_read)
    assert 0 < accepted < MUTATIONS


@pytest.mark.slow
def test_damaged_gguf(tmp_path: Path) -> None:
    """Tensors within the file and a vocabulary that can be used, or one sentence; the package `gguf` agrees."""
    path = tmp_path / "model.gguf"
    peer = importlib.util.find_spec("gguf")

    def read(number: int) -> None:
        described, stored = gguf.open_file(path)
        found = {name: stored.read(name) for name in stored.shapes}
        assert all(found[name].shape == shape for name, shape in stored.shapes.items())
        assert described["model_type"] == "llama"
        if (tokenizer := stored.tokenizer()) is not None:
            with suppress(UserError):
                tokenizer.encode_pair(TEXT)
        with suppress(UserError):
            describe(path)
        if peer:
            from gguf import GGUFReader

            theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
            assert len(theirs) == len(found) + ("rope_freqs.weight" in theirs)

    random = np.random.default_rng(0)
    tensors = {"token_embd.weight": random.random((5, 32), np.float32), "output_norm.weight": np.ones(32, np.float32)}
    tensors |= {"blk.0.attn_q.weight": random.random((32, 32), np.float32)}
    whole = gguf_bytes(LLAMA | VOCABULARY, tensors)
    accepted = survey(mutations(whole[:900], MUTATIONS - 500, 0), path, read)  # the header alone, and then all
    accepted += survey(mutations(whole, 500, 1), path, read)
    assert 0 < accepted < MUTATIONS


def tokenizer_files() -> dict[str, bytes]:
    """A tokenizer of each kind."""
    texts = [TEXT, "one two three four five six seven", "a tale of two cities"] * 3
    pairs = TokenizerConfig("bpe", vocabulary_size=300, special="bert").train(texts)
    pieces = TokenizerConfig("wordpiece", vocabulary_size=80).train(texts)
    unigram = tokenizers.Tokenizer(
        tokenizers.models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -2.0), ("▁text", -3.0), ("</s>", 0.0)], unk_id=0)
    )
    unigram.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    unigram.decoder = tokenizers.decoders.Metaspace()
    unigram.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 4)])
    unigram.add_special_tokens(["</s>"])
    made = {"pairs": pairs.trained, "pieces": pieces.trained, "unigram": unigram}  # type: ignore[union-attr]
    return {name: trained.to_str().encode() for name, trained in made.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", tokenizer_files())
def test_damaged_tokenizers(kind: str, tmp_path: Path) -> None:
    """The ids that the library gives of the same file; what it cannot read, or use, is refused."""
    path = tmp_path / "tokenizer.json"

    def read(number: int) -> None:
        ours = open_tokenizer(tmp_path)
        assert ours is not None
        ids = ours.encode_pair(TEXT).ids.tolist()
        assert min(ids, default=0) >= 0 and max(ids, default=0) < ours.vocabulary_size
        ours.decode(ids)
        theirs = tokenizers.Tokenizer.from_file(str(path))
        theirs.no_truncation()
        theirs.no_padding()
        assert ids == theirs.encode(TEXT).ids

    whole = tokenizer_files()[kind]
    accepted = survey(damaged_json(whole, MUTATIONS // 3, len(kind)), path, read)
    assert 0 < accepted < MUTATIONS // 3


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_damaged_descriptions(name: str, tmp_path: Path) -> None:
    """A config.json, or how a model writes, is believed only as far as its tensors go; what is no JSON is refused."""
    config, random = MODELS[name], np.random.default_rng(0)
    model = config.build(Spec(12))
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"inputs": jax.ShapeDtypeStruct((1, 1), jnp.int32)})
    params = jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape, np.float32)), shapes)
    save_pretrained(tmp_path, config, params)
    for number, path in enumerate(sorted(tmp_path.glob("*.json"))):
        whole = path.read_bytes()

        def read(number: int, path: Path = path) -> None:
            describe(tmp_path)
            json.loads(path.read_bytes())
            if number % 10 == 0:
                loaded = load_pretrained(tmp_path)
                assert jax.tree.structure(loaded.params) == jax.tree.structure(params)

        survey(damaged_json(whole, MUTATIONS // len(MODELS) // (1 + number), number), path, read)
        path.write_bytes(whole)
        load_pretrained(tmp_path)
