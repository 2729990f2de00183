"""Tokenizers of published models: read from every form they come in, with their special tokens."""

import base64
import itertools
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from research.core.errors import UserError
from research.data.text.tokenizers import PairTokenizer, Subwords, TokenizerConfig, load
from research.hub.gguf_vocabulary import PRE_TOKENIZERS, tokenizer_of
from research.hub.tokenizer import open_tokenizer, save_tokenizer
from research.runtime.native_messages import panics_hidden

TEXT = "the cat sat on the mat, and the other cat sat on the hat of that rat"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "na", "##ive", ",", "!"]


@pytest.fixture
def wordpiece(tmp_path: Path) -> Path:
    """A folder with vocab.txt alone."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return tmp_path


def pieces(tokenizer: Subwords, ids: Any) -> list[str | None]:
    return [tokenizer.trained.id_to_token(int(each)) for each in ids]


def test_a_wordpiece_vocabulary_is_that_of_uncased_bert(wordpiece):
    """Lower case, without accents, pieces by longest match; a pair with [CLS], [SEP] and token types."""
    tokenizer = open_tokenizer(wordpiece)
    assert isinstance(tokenizer, PairTokenizer)
    assert pieces(tokenizer, tokenizer.encode("The CATS, naïve!")) == ["the", "cat", "##s", ",", "na", "##ive", "!"]
    pair = tokenizer.encode_pair("the cat", "sat dog")
    assert pieces(tokenizer, pair.ids) == ["[CLS]", "the", "cat", "[SEP]", "sat", "[UNK]", "[SEP]"]
    assert pair.token_types.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert [tokenizer.special_id(role) for role in ("pad", "unk", "cls", "sep", "mask", "eos")] == [0, 1, 2, 3, 4, None]


def test_a_cased_vocabulary_keeps_case(wordpiece):
    """As tokenizer_config.json says."""
    (wordpiece / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    tokenizer = open_tokenizer(wordpiece)
    assert pieces(tokenizer, tokenizer.encode("The the")) == ["[UNK]", "the"]


def test_padding_and_truncation_in_the_file_are_switched_off(wordpiece, tmp_path):
    """A file that was saved while it cut and padded gives whole texts."""
    trained = open_tokenizer(wordpiece).trained
    trained.enable_truncation(4)
    trained.enable_padding(length=8)
    (tmp_path / "tokenizer.json").write_text(trained.to_str())
    assert len(open_tokenizer(tmp_path).encode("the cat sat, the cat sat")) == 7


def test_a_folder_comes_back(wordpiece, tmp_path):
    """Written for transformers, read again: the same ids, special tokens and template; and so does a run's file."""
    original = open_tokenizer(wordpiece)
    original = Subwords("pretrained", original.trained, original.special, "{{ messages }}")
    (tmp_path / "saved").mkdir()
    save_tokenizer(tmp_path / "saved", original)
    original.save(tmp_path / "tokenizer.of.run")
    for found in (open_tokenizer(tmp_path / "saved"), load(tmp_path / "tokenizer.of.run")):
        assert (found.kind, found.chat_template) == ("pretrained", "{{ messages }}")
        assert dict(found.special) == dict(original.special)
        np.testing.assert_array_equal(found.encode_pair("the", "cats").ids, original.encode_pair("the", "cats").ids)


def test_byte_pairs_of_gpt2_are_read(tmp_path):
    """vocab.json and merges.txt give the ids of the tokenizer they come from."""
    trained = TokenizerConfig("bpe", 300).train([TEXT]).trained
    trained.model.save(str(tmp_path))
    found = open_tokenizer(tmp_path)
    assert found.encode(TEXT).tolist() == trained.encode(TEXT).ids
    assert found.decode(found.encode(" déjà vu 🙂")) == " déjà vu 🙂"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"chat_template": "A"}, "A"),
        ({"chat_template": [{"name": "tools", "template": "B"}, {"name": "default", "template": "C"}]}, "C"),
        ({}, None),
    ],
)
def test_chat_templates_are_kept(wordpiece, settings, expected):
    """One, several by name, or none; a file of its own goes first."""
    (wordpiece / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_tokenizer(wordpiece).chat_template == expected
    (wordpiece / "chat_template.jinja").write_bytes(b"D\r\nE")
    assert open_tokenizer(wordpiece).chat_template == "D\nE"


@pytest.mark.parametrize("odd", [5, {"a": "b"}, [5, {"name": "default"}], [{"name": "default", "template": 5}]])
def test_an_odd_chat_template_is_refused(wordpiece, odd):
    """It is a text, or several with a name each."""
    (wordpiece / "tokenizer_config.json").write_text(json.dumps({"chat_template": odd}))
    with pytest.raises(UserError, match=r"chat_template in .* is no text but"):
        open_tokenizer(wordpiece)


@pytest.mark.parametrize("odd", [5, ["a"], {"content": 5}])
def test_a_special_token_that_is_no_text_is_refused(wordpiece, odd):
    """In one sentence."""
    (wordpiece / "tokenizer_config.json").write_text(json.dumps({"eos_token": odd}))
    with pytest.raises(UserError, match=r"name the token .*, which is no text"):
        open_tokenizer(wordpiece)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.txt"])
def test_a_pipe_among_the_files_is_refused(wordpiece, name):
    """Reading it would wait for ever."""
    (wordpiece / name).unlink(missing_ok=True)
    os.mkfifo(wordpiece / name)
    with pytest.raises(UserError, match="is a pipe or a device, not a regular file"):
        open_tokenizer(wordpiece)


def test_a_panic_of_the_library_is_one_sentence(wordpiece, capfd):
    """It writes where it panicked to the standard error by itself, which is kept back; other messages are not."""
    charsmap = base64.b64encode(struct.pack("<I", 1024) + bytes(range(256)) * 8).decode()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    saved = json.loads(tokenizer.to_str()) | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap}}
    (wordpiece / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="holds no tokenizer"):
        open_tokenizer(wordpiece)
    assert capfd.readouterr().err == ""
    with panics_hidden():
        os.write(2, b"from elsewhere")
    assert capfd.readouterr().err == "from elsewhere"


def test_special_tokens_are_those_of_the_settings(wordpiece):
    """Written as text or as an object with its content."""
    settings = {"eos_token": {"content": "!", "lstrip": False}, "bos_token": ",", "pad_token": None}
    (wordpiece / "tokenizer_config.json").write_text(json.dumps(settings))
    found = open_tokenizer(wordpiece)
    assert (found.special_id("eos"), found.special_id("bos")) == (VOCABULARY.index("!"), VOCABULARY.index(","))


def test_code_and_damage_are_refused(wordpiece):
    """auto_map, a broken tokenizer.json, and a vocabulary without the tokens that the method needs."""
    (wordpiece / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "x.Y"}}))
    with pytest.raises(UserError, match="auto_map"):
        open_tokenizer(wordpiece)
    (wordpiece / "tokenizer_config.json").unlink()
    (wordpiece / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="no \\[UNK\\]"):
        open_tokenizer(wordpiece)
    (wordpiece / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="holds no tokenizer"):
        open_tokenizer(wordpiece)


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    """Nothing is made up."""
    assert open_tokenizer(tmp_path) is None


def sentencepiece(prefix: bool) -> dict[str, Any]:
    """Metadata of a vocabulary as Gemma's: bytes, characters and merged pieces with scores, and two of the user's."""
    letters = ["▁", *"abcde"]
    merged = random.Random(0).sample([x + y for x in letters for y in letters], 20)
    merged += [first + second for first, second in zip(merged[:8], merged[8:16], strict=True)]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n", "<b>", *byte_tokens, *dict.fromkeys(merged), *letters]
    types = [3] * 4 + [4] * 2 + [6] * 256 + [1] * (len(tokens) - 262)
    scores = [0.0] * 262 + [-float(rank) for rank in range(len(tokens) - 262)]
    names = {"tokens": tokens, "token_type": types, "scores": scores, "model": "llama", "add_space_prefix": prefix}
    names |= {"bos_token_id": 2, "eos_token_id": 1, "padding_token_id": 0, "unknown_token_id": 3}
    return {f"tokenizer.ggml.{name}": each for name, each in names.items()}


def merged_by_score(metadata: dict[str, Any], text: str) -> list[int]:
    """SentencePiece's byte-pair encoding as published: merge the best-scored neighbours, the first of equals."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    ids = {token: index for index, token in enumerate(tokens)}
    symbols = list(text.replace(" ", "▁"))
    while True:
        pairs = [(scores[ids[x + y]], -i) for i, (x, y) in enumerate(itertools.pairwise(symbols)) if x + y in ids]
        if not pairs:
            break
        place = -max(pairs)[1]
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
    as_bytes = (f"<0x{byte:02X}>" for symbol in symbols if symbol not in ids for byte in symbol.encode())
    assert not [symbol for symbol in symbols if symbol not in ids and len(symbol) > 1]
    found: list[int] = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [ids[next(as_bytes)] for _ in symbol.encode()]
    return found


@given(text=st.text("abcde é🙂", max_size=30))
def test_pieces_are_merged_by_their_scores(text):
    """The tokenizer made of a GGUF vocabulary gives what SentencePiece's method gives, and the text back."""
    metadata = sentencepiece(prefix=False)
    tokenizer = tokenizer_of(metadata)
    assert tokenizer.encode(text).tolist() == merged_by_score(metadata, text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_and_user_defined_pieces_are_found_first():
    """Control tokens in the text, longest pieces of the user's, the first token before all, and the space before it."""
    tokenizer = tokenizer_of(sentencepiece(prefix=False))
    ids = tokenizer.encode_pair("a\n\n<b>e<eos>").ids
    assert pieces(tokenizer, ids) == ["<bos>", "a", "\n\n", "<b>", "e", "<eos>"]
    assert [tokenizer.special_id(role) for role in ("bos", "eos", "pad", "unk", "cls")] == [2, 1, 0, 3, None]
    prefixed = tokenizer_of(sentencepiece(prefix=True))
    assert prefixed.decode(prefixed.encode("ab cd")) == "ab cd"
    assert prefixed.encode("b").tolist() == merged_by_score(sentencepiece(prefix=True), " b")


@pytest.mark.parametrize("cut", ["gpt-2", *PRE_TOKENIZERS])
def test_byte_level_vocabularies_are_read(cut):
    """Merges and the way of cutting words, as Llama 3 and Qwen have them, with digits in threes or one by one."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([TEXT + " 2024 1234567"] * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), "<|end|>"]
    metadata = {
        "model": "gpt2",
        "tokens": tokens,
        "merges": [" ".join(pair) for pair in model["merges"]],
        "token_type": [1] * (len(tokens) - 1) + [3],
        "pre": cut,
        "eos_token_id": len(tokens) - 1,
    }
    tokenizer = tokenizer_of({f"tokenizer.ggml.{name}": each for name, each in metadata.items()})
    assert tokenizer.encode(TEXT).tolist() == trained.encode(TEXT).ids
    assert tokenizer.decode(tokenizer.encode("déjà 🙂\n\n 12")) == "déjà 🙂\n\n 12"
    assert tokenizer.encode("cat<|end|>").tolist()[-1] == tokenizer.special_id("eos") == len(tokens) - 1
    longest = {"gpt-2": 9, "llama-bpe": 3, "qwen2": 1}[cut]
    digits = [piece for piece in pieces(tokenizer, tokenizer.encode("2024 1234567")) if piece.strip("Ġ").isdigit()]
    assert max(map(len, digits)) <= longest


def test_an_unknown_way_of_cutting_is_refused():
    """Another way would give other ids without a word."""
    metadata = {"model": "gpt2", "tokens": ["a"], "merges": [], "pre": "falcon"}
    with pytest.raises(UserError, match="'falcon'"):
        tokenizer_of({f"tokenizer.ggml.{name}": each for name, each in metadata.items()})
