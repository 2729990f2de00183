"""Tokenizers give text back, use only ids of their vocabulary, and survive being saved."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.dataset import Tokenizer
from research.data.text.tokenizers import UNKNOWN, Characters, TokenizerConfig, load

TEXTS = (
    "It is a truth universally acknowledged,\n\n  that a single man",
    "in possession of a good fortune — é 猫 😀",
) * 5
CONFIGS = [
    TokenizerConfig("bytes"),
    TokenizerConfig("characters"),
    TokenizerConfig("bpe", 300),
    TokenizerConfig("wordpiece", 100),
]
TRAINED: dict[str, Tokenizer] = {config.kind: config.train(TEXTS) for config in CONFIGS}
every_kind = pytest.mark.parametrize("kind", TRAINED)
any_text = st.text(alphabet=st.characters(codec="utf-8"), max_size=80)


@settings(max_examples=200, deadline=None)
@given(any_text)
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_bytes_and_bpe_are_lossless_for_every_text(kind: str, text: str) -> None:
    """Any text at all comes back exactly."""
    assert TRAINED[kind].decode(TRAINED[kind].encode(text)) == text


@given(st.text(alphabet=sorted(set("".join(TEXTS))), max_size=80))
def test_characters_are_lossless_over_their_alphabet(text: str) -> None:
    """A text of characters seen in training comes back exactly, one id a character."""
    ids = TRAINED["characters"].encode(text)
    assert ids.size == len(text) and TRAINED["characters"].decode(ids) == text


@given(any_text)
def test_unseen_characters_become_the_replacement_character(text: str) -> None:
    """Only characters outside the alphabet change: they encode to 0 and decode to U+FFFD."""
    tokenizer = Characters("abc")
    assert tokenizer.decode(tokenizer.encode(text)) == "".join(c if c in "abc" else UNKNOWN for c in text)


def test_wordpiece_keeps_words_and_punctuation() -> None:
    """WordPiece gives back the words, as cased BERT does, and marks what it never saw."""
    tokenizer = TokenizerConfig("wordpiece", 200).train(TEXTS)
    assert tokenizer.decode(tokenizer.encode("a single   man , in\ngood fortune")) == "a single man, in good fortune"
    assert tokenizer.decode(tokenizer.encode("a ж man")) == "a [UNK] man"


@every_kind
@settings(max_examples=50, deadline=None)
@given(any_text)
def test_ids_are_int32_inside_the_vocabulary(kind: str, text: str) -> None:
    """Encoding gives int32 ids from 0 to vocabulary_size - 1, and decoding takes any of them."""
    ids = TRAINED[kind].encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert ids.size == 0 or 0 <= ids.min() <= ids.max() < TRAINED[kind].vocabulary_size
    assert isinstance(TRAINED[kind].decode(np.arange(TRAINED[kind].vocabulary_size)), str)


@every_kind
def test_a_saved_tokenizer_is_the_same(kind: str, tmp_path: Path) -> None:
    """Save and load give the same ids and the same size."""
    TRAINED[kind].save(tmp_path / "tokenizer.json")
    loaded = load(tmp_path / "tokenizer.json")
    assert loaded.vocabulary_size == TRAINED[kind].vocabulary_size
    assert loaded.encode(TEXTS[1]).tolist() == TRAINED[kind].encode(TEXTS[1]).tolist()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_training_is_deterministic(config: TokenizerConfig) -> None:
    """The same texts give the same ids, in a tokenizer trained anew."""
    anew = config.train(TEXTS)
    for text in TEXTS[:2]:
        assert anew.encode(text).tolist() == TRAINED[config.kind].encode(text).tolist()


def test_vocabularies_have_the_size_asked_for() -> None:
    """BPE and WordPiece reach the size asked for where the text is rich enough, and never pass it."""
    assert TRAINED["bpe"].vocabulary_size == 300
    assert TRAINED["wordpiece"].vocabulary_size == 100
    assert TRAINED["characters"].vocabulary_size == len(set("".join(TEXTS))) + 1
    assert TRAINED["bytes"].vocabulary_size == 256


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_four_megabytes_encode_in_under_a_second(kind: str) -> None:
    """Bytes and characters are vectorised: a corpus of novels takes well under a second."""
    text = "".join(TEXTS) * 9000
    TRAINED[kind].encode(text[:100])
    start = time.perf_counter()
    TRAINED[kind].encode(text)
    assert len(text) > 4_000_000 and time.perf_counter() - start < 1


@pytest.mark.parametrize("config", [TokenizerConfig("bpe", 256), TokenizerConfig("wordpiece", 40)])
def test_a_vocabulary_too_small_is_refused(config: TokenizerConfig) -> None:
    """The error names the least size."""
    with pytest.raises(UserError, match="needs at least"):
        config.train(TEXTS)


ODD = ('{"kind": "characters", "alphabet": 5}', '{"kind": "words", "words": "ab"}', '{"kind": "words", "words": [1]}')


@pytest.mark.parametrize("content", [None, "", "{}", '{"kind": "runes"}', "[1]", *ODD])
def test_a_file_that_is_no_tokenizer_is_refused(content: str | None, tmp_path: Path) -> None:
    """A missing or damaged file is one sentence."""
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="tokenizer"):
        load(path)


SENTENCE = "my dog is cute, and my dog sleeps"
PAIRS = TokenizerConfig("bpe", 262, special="bert").train(["ab"])  # a token for each byte


@pytest.mark.parametrize("special", ["bert", "t5"])
def test_special_tokens_have_the_first_ids(special):
    """As BERT and T5 have them; text that holds none of their names has none of their ids, and comes back whole."""
    tokenizer = TokenizerConfig("bpe", vocabulary_size=500, special=special).train([SENTENCE] * 3)
    roles = {"bert": ("pad", "unk", "cls", "sep", "mask"), "t5": ("pad", "eos", "unk")}[special]
    assert [tokenizer.special_id(role) for role in roles] == list(range(len(roles)))
    assert tokenizer.special_id("bos") is None
    assert tokenizer.encode(SENTENCE).min() >= (5 if special == "bert" else 103)
    assert tokenizer.decode(tokenizer.encode(SENTENCE)) == SENTENCE


@pytest.mark.parametrize(
    ("config", "single", "pair"),
    [
        (TokenizerConfig("wordpiece", 60), "[CLS] my dog [SEP]", "[CLS] my dog [SEP] is cute [SEP]"),
        (TokenizerConfig("bpe", 300, special="bert"), "[CLS]my dog[SEP]", "[CLS]my dog[SEP]is cute[SEP]"),
        (TokenizerConfig("bpe", 400, special="t5"), "my dog</s>", "my dog</s>is cute</s>"),
        (TokenizerConfig("bpe", 300), "my dog", "my dogis cute"),
    ],
)
def test_texts_are_framed_by_special_tokens(config, single, pair, tmp_path):
    """One text and two, with the place that each token comes from; saved and loaded it is the same."""
    tokenizer = config.train([SENTENCE] * 3)
    tokenizer.save(tmp_path / "tokenizer.json")
    tokenizer = TokenizerConfig(file=str(tmp_path / "tokenizer.json")).train([])
    assert tokenizer.decode(tokenizer.encode_pair("my dog").ids) == single
    encoded = tokenizer.encode_pair("my dog", "is cute")
    assert tokenizer.decode(encoded.ids) == pair
    for source, text in enumerate(("my dog", "is cute")):
        own = encoded.sources == source
        np.testing.assert_array_equal(encoded.ids[own], tokenizer.encode(text))
        pieces = [text[first:last] for first, last in encoded.offsets[own]]
        assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


@given(st.integers(0, 30), st.integers(0, 30), st.integers(5, 40))
def test_the_longer_text_is_cut(first, second, length):
    """To the length asked for, special tokens kept, and never more than is needed."""
    text, other = "a" * first, "b" * second
    encoded = PAIRS.encode_pair(text, other, length=length)
    room = length - 3
    sizes = [int((encoded.sources == source).sum()) for source in (0, 1)]
    assert len(encoded.ids) == min(first + second + 3, length)
    assert [encoded.ids[0], encoded.ids[-1]] == [2, 3]
    assert all(size == full or size >= room // 2 for size, full in zip(sizes, (first, second), strict=True))


def test_special_tokens_are_refused_where_none_can_be():
    """Bytes have none, and a length must have room for them."""
    with pytest.raises(UserError, match="'bytes' cannot have the special tokens of bert"):
        TokenizerConfig("bytes", special="bert").train([SENTENCE])
    with pytest.raises(UserError, match="A length of 3 tokens has no room for text"):
        PAIRS.encode_pair("a", "b", length=3)
