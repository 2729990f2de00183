"""Tokenizers of vocabulary files alone: by the class that is named, never guessed, with all ids as published."""

import json
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.text.tokenizers import Subwords, load
from research.hub.pretrained import load_tokenizer
from research.hub.sentencepiece import BPE, CONTROL, UNIGRAM, read_sentencepiece
from research.hub.tokenizer import open_tokenizer, save_tokenizer

LETTERS = ["Ġ", *"abcdehlot"]
VOCABULARY = {token: id for id, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS, "he", "Ġa"])}
MERGES = "#version: 0.2\nh e\nĠ a\n"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def folder_of(path: Path, files: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (path / name).write_text(text, encoding="utf-8")
    return path


def ids(folder: Path, text: str, other: str | None = None) -> list[int]:
    found = open_tokenizer(folder)
    assert found is not None
    return found.encode_pair(text, other).ids.tolist()


def pairs(tmp_path: Path, kind: str, **settings: Any) -> Path:
    files = {"vocab.json": VOCABULARY, "merges.txt": MERGES}
    return folder_of(tmp_path, files | {"tokenizer_config.json": {"tokenizer_class": kind, **settings}})


def test_the_same_files_are_other_tokens_in_another_class(tmp_path):
    """RoBERTa puts its frame around a text, GPT-2 nothing; with a fast class or a slow one."""
    text = [VOCABULARY[token] for token in ("he", "Ġa")]
    assert ids(pairs(tmp_path, "GPT2Tokenizer", **SPECIAL), "he a") == text
    assert ids(pairs(tmp_path, "RobertaTokenizerFast"), "he a") == [0, *text, 2]
    assert ids(pairs(tmp_path, "RobertaTokenizer"), "he", "a") == [0, text[0], 2, 2, VOCABULARY["a"], 2]
    assert ids(pairs(tmp_path, "RobertaTokenizer"), "he<mask>") == [0, text[0], 4, 2]
    assert ids(pairs(tmp_path, "GPT2Tokenizer", add_bos_token=True, **SPECIAL), "he") == [0, text[0]]
    assert ids(pairs(tmp_path, "GPT2Tokenizer", add_prefix_space=True, **SPECIAL), "a") == [text[1]]


def test_the_model_names_the_class_where_the_settings_do_not(tmp_path):
    """config.json says what model it is."""
    folder = folder_of(
        tmp_path, {"vocab.json": VOCABULARY, "merges.txt": MERGES, "config.json": {"model_type": "roberta"}}
    )
    assert ids(folder, "he") == [0, VOCABULARY["he"], 2]


@pytest.mark.parametrize("kind", ["HerbertTokenizerFast", "BertJapaneseTokenizer", "BartTokenizer", "os.system"])
def test_a_class_that_is_not_known_is_refused_by_its_name(kind, tmp_path):
    """Its files look like those of another, and would give other ids."""
    with pytest.raises(UserError, match=f"of the class '{kind}', which cannot be made of its vocabulary here: save it"):
        open_tokenizer(pairs(tmp_path, kind))


def test_missing_files_are_named(tmp_path):
    """Each class says what it is made of."""
    (pairs(tmp_path, "GPT2Tokenizer") / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"has no merges.txt, which a GPT2Tokenizer is made of"):
        open_tokenizer(tmp_path)


def test_added_tokens_keep_their_ids(tmp_path):
    """Of both files that name them; one that would get another id is refused."""
    size = len(VOCABULARY)
    added = {str(size): {"content": "<|user|>", "special": True}, str(size + 1): {"content": "<|x|>", "special": False}}
    folder = pairs(tmp_path, "GPT2Tokenizer", added_tokens_decoder=added, **SPECIAL)
    assert ids(folder, "<|user|>he<|x|>") == [size, VOCABULARY["he"], size + 1]
    folder_of(folder, {"added_tokens.json": {"<|y|>": size + 2}})
    assert ids(folder, "<|y|>he") == [size + 2, VOCABULARY["he"]]
    folder_of(folder, {"added_tokens.json": {"<|y|>": size + 7}})
    with pytest.raises(UserError, match=rf"says that '<\|y\|>' is the token {size + 7}, but its vocabulary has"):
        open_tokenizer(folder)


def test_a_word_that_is_special_is_never_cut(tmp_path):
    """A BERT of lower case keeps a name in capitals whole where its settings say so."""
    files = {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n[NAME]\nname\n[\n]\n"}
    settings = {
        "tokenizer_class": "BertTokenizer",
        "added_tokens_decoder": {"6": {"content": "[NAME]", "special": True}},
    }
    folder = folder_of(tmp_path, files | {"tokenizer_config.json": settings})
    assert ids(folder, "THE [NAME]") == [2, 5, 6, 3]


# SentencePiece: the protocol buffer, written by hand.


def number(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(tag: int, value: bytes | int | float) -> bytes:
    if isinstance(value, float):
        return number(tag << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    return number(tag << 3 | 2) + number(len(value)) + value


def sentencepiece(pieces: list[tuple[str, float, int]], kind: int, unknown: int = 0) -> bytes:
    described = (field(1, text.encode()) + field(2, score) + field(3, each) for text, score, each in pieces)
    return (
        b"".join(field(1, piece) for piece in described) + field(2, field(3, kind) + field(40, unknown)) + field(3, b"")
    )


UNIGRAMS = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, 2)] + [
    (text, -float(score), 1) for score, text in enumerate(["▁", "a", "b", "ab", "▁b", "▁ab"], start=1)
]


def test_sentencepiece_of_t5(tmp_path):
    """The likeliest pieces; the end; and the hundred sentinels after the vocabulary, the first of them last."""
    folder = folder_of(
        tmp_path, {"spiece.model": sentencepiece(UNIGRAMS, UNIGRAM, 2), "config.json": {"model_type": "t5"}}
    )
    assert ids(folder, "ab  b") == [3, 6, 3, 5, 1]
    assert ids(folder, "a<extra_id_0>") == [3, 4, len(UNIGRAMS) + 99, 1]


def test_sentencepiece_of_llama(tmp_path):
    """Byte pairs, merged by their scores, after a token that begins the text."""
    texts = ["▁", "a", "b", "ab", "▁ab"]
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(text, -float(place), 1) for place, text in enumerate(texts)]
    files = {"tokenizer.model": sentencepiece(pieces, BPE), "config.json": {"model_type": "llama"}}
    folder = folder_of(tmp_path, files)
    assert ids(folder, "ab b") == [1, 7, 3, 5]
    found = open_tokenizer(folder)
    assert found is not None and found.decode(found.encode("ab b")) == "ab b"
    folder_of(folder, {"tokenizer_config.json": {"add_bos_token": False, "add_eos_token": True}})
    assert ids(folder, "ab") == [7, 2]


def test_sentencepiece_of_xlm_roberta(tmp_path):
    """Its ids are those of the file and one, since it has its own first four tokens; the mask comes last."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("▁a", -1.0, 1), ("b", -2.0, 1)]
    files = {"sentencepiece.bpe.model": sentencepiece(pieces, UNIGRAM), "config.json": {"model_type": "xlm-roberta"}}
    assert ids(folder_of(tmp_path, files), "ab<mask>") == [0, 4, 5, 6, 2]


def test_sentencepiece_of_camembert(tmp_path):
    """Tokens of its own, three of them never used, then those of the file but for its first, and the mask."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("▁a", -1.0, 1), ("b", -2.0, 1)]
    files = {"sentencepiece.bpe.model": sentencepiece(pieces, UNIGRAM), "config.json": {"model_type": "camembert"}}
    folder = folder_of(tmp_path, files)
    assert ids(folder, "ab <mask>c") == [5, 7, 8, 9, 3, 6]
    assert ids(folder, "a", "a") == [5, 7, 6, 6, 7, 6]


SOURCE = [("<unk>", 0.0, 2), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("▁", -3.0, 1), ("▁he", -1.0, 1)]
SOURCE += [("llo", -1.0, 1), ("l", -2.0, 1), ("o", -2.5, 1), ("<sep>", 0.0, 4)]
TARGET = [("<unk>", 0.0, 2), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("▁", -3.0, 1), ("▁h", -1.0, 1)]
TARGET += [("ello", -1.0, 1), ("é", -2.0, 1)]
MARIAN = {
    "</s>": 0,
    "<unk>": 1,
    "ello": 2,
    "▁h": 3,
    "▁he": 4,
    "llo": 5,
    "▁": 6,
    "é": 7,
    ">>fr<<": 8,
    "<sep>": 9,
    "<pad>": 10,
}


def marian(tmp_path: Path, **files: Any) -> Path:
    models = {"source.spm": sentencepiece(SOURCE, UNIGRAM), "target.spm": sentencepiece(TARGET, UNIGRAM)}
    return folder_of(tmp_path, {**models, "vocab.json": MARIAN, "config.json": {"model_type": "marian"}, **files})


def test_two_sentencepiece_files_of_marian(tmp_path):
    """Each language is cut by its own file, and vocab.json has the ids; by hand after MarianTokenizer.

    The piece "l" of the source is not in vocab.json; "é" is no piece of the source, but is in vocab.json.
    """
    found = open_tokenizer(marian(tmp_path))
    assert found is not None and found.target is not None
    assert found.encode_pair("hello").ids.tolist() == [4, 5, 0]
    assert found.target.encode("hello").tolist() == [3, 2]
    assert found.encode_pair(">>fr<<hello  hellol").ids.tolist() == [8, 4, 5, 4, 5, 1, 0]
    assert found.encode("hello é éé <sep>").tolist() == [4, 5, 6, 7, 6, 1, 6, 9]
    assert found.decode([3, 2, 4, 5]) == "hello hello"
    assert (found.vocabulary_size, found.special_id("eos"), found.special_id("pad")) == (11, 0, 10)


def test_a_tokenizer_of_marian_is_kept_and_written(tmp_path):
    """With a run, and as the files that it was read from."""
    folder = marian(tmp_path / "a", **{"tokenizer_config.json": {"added_tokens_decoder": {"10": {"content": "<pad>"}}}})
    found = open_tokenizer(folder)
    assert found is not None
    found.save(tmp_path / "saved.json")
    (tmp_path / "b").mkdir()
    save_tokenizer(tmp_path / "b", found)
    for again in (load(tmp_path / "saved.json"), open_tokenizer(tmp_path / "b")):
        assert isinstance(again, Subwords) and again.target is not None
        assert (
            again.encode_pair(">>fr<<hello é<sep>").ids.tolist() == found.encode_pair(">>fr<<hello é<sep>").ids.tolist()
        )
        assert again.target.encode("hello").tolist() == [3, 2]
        assert again.special_id("pad") == 10


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer_config.json": {"separate_vocabs": True}}, "'separate_vocabs'"),
        ({"vocab.json": {**MARIAN, "a": "b"}}, "a piece without a number"),
        ({"vocab.json": {"a": 0}}, "lacks the special token '</s>'"),
        ({"target.spm": sentencepiece(TARGET, BPE)}, "none of unigrams"),
    ],
)
def test_odd_files_of_marian_are_refused(files, words, tmp_path):
    """What is not read, and what does not fit."""
    with pytest.raises(UserError, match=words):
        open_tokenizer(marian(tmp_path, **files))


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", "ab ", "</s>", "\n", "é"])
@pytest.mark.parametrize("kind", ["llama", "t5", "gpt2", "marian"])
def test_a_text_of_megabytes_takes_seconds(kind, unit, tmp_path):
    """However it repeats itself: work that grows with the square of the length would take hours."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(text, -float(place), 1) for place, text in enumerate(["▁", "a", "b", "ab", "▁ab", "aa", "aaaa"])]
    files: dict[str, Any] = {
        "llama": {"tokenizer.model": sentencepiece(pieces, BPE)},
        "t5": {"spiece.model": sentencepiece(UNIGRAMS, UNIGRAM, 2)},
        "gpt2": {"vocab.json": VOCABULARY, "merges.txt": MERGES},
        "marian": {},
    }[kind]
    folder = marian(tmp_path) if kind == "marian" else folder_of(tmp_path, files)
    found = open_tokenizer(folder_of(folder, {"config.json": {"model_type": kind}}))
    assert found is not None
    began = time.process_time()
    found.encode(unit * (4_000_000 // len(unit)))
    assert time.process_time() - began < 60


@pytest.mark.parametrize("name", ["qwen.tiktoken", "tiktoken.model", "tokenizer.model"])
def test_vocabularies_of_tiktoken_are_refused_by_name(name, tmp_path):
    """They hold tokens without the rules that cut a text."""
    folder = folder_of(tmp_path, {name: b"IQ== 0\nIg== 1\n", "config.json": {"model_type": "llama"}})
    with pytest.raises(UserError, match=rf"{name} is a vocabulary of tiktoken, which is not read here"):
        open_tokenizer(folder)


@given(st.data())
def test_a_damaged_sentencepiece_file_is_refused(data):
    """Whatever byte is changed or missing: a file, or one sentence."""
    whole = bytearray(sentencepiece(UNIGRAMS, UNIGRAM, 2))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spiece.model"
        path.write_bytes(bytes(whole[: data.draw(st.integers(place, len(whole)))]))
        try:
            read_sentencepiece(path)
        except UserError as error:
            assert "damaged or no file of SentencePiece" in str(error)


# Ids beyond the rows of the model, and files that do not fit their own rules.


def word_level(tmp_path: Path, vocabulary: dict[str, int], unknown: str | None = "<unk>", **files: Any) -> Path:
    trained = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=unknown or "none"))
    trained.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return folder_of(tmp_path, {"tokenizer.json": trained.to_str(), **files})


def test_a_vocabulary_with_gaps_needs_rows_up_to_its_largest_id(tmp_path):
    """A model for it has an output for each id."""
    found = open_tokenizer(word_level(tmp_path, {"<unk>": 0, "a": 1, "b": 99}))
    assert found is not None and found.vocabulary_size == 100


def test_a_token_without_a_row_in_the_model_is_refused_where_a_text_has_it(tmp_path):
    """JAX would read the last row for it; other texts are fine, also after saving and loading."""
    config = {"config.json": {"model_type": "gpt2", "vocab_size": 2}, "added_tokens.json": {"b": 2}}
    found = load_tokenizer(word_level(tmp_path, {"<unk>": 0, "a": 1}, **config))
    found.save(tmp_path / "saved.json")
    for tokenizer in (found, load(tmp_path / "saved.json")):
        assert isinstance(tokenizer, Subwords)
        assert tokenizer.vocabulary_size == 2 and tokenizer.encode("a a").tolist() == [1, 1]
        for encode in (tokenizer.encode, tokenizer.encode_pair):
            with pytest.raises(UserError, match="has the token 'b', whose id 2 has no row in the model, which has 2"):
                encode("a b")


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
    """Its tokens have no rows: of an added one that may be, as no text may have it, of others it is a mistake."""
    config = {"config.json": {"model_type": "gpt2", "vocab_size": 2}}
    with pytest.raises(UserError, match=r"has 2 tokens from 2 on for which the model, of 2 rows, has none"):
        load_tokenizer(word_level(tmp_path, {"<unk>": 0, "a": 1, "b": 2, "c": 5000}, **config))


def test_a_tokenizer_without_its_unknown_token_is_refused_when_it_is_read(tmp_path):
    """Else the first text with an unknown word would end a run."""
    with pytest.raises(UserError, match="cannot be used: The tokenizer's file does not fit its own rules"):
        open_tokenizer(word_level(tmp_path, {"a": 1, "b": 2}, unknown=None))
