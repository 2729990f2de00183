"""Words as tokens, and pairs of them: ids by frequency, and every neighbour as often as it should be."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig, load
from research.data.text.word_pairs import Pairs, SkipGramData, word_counts
from research.data.text.words import most_frequent, words


def test_words_are_lower_case_without_punctuation():
    """Digits and signs part words, apostrophes inside a word do not, straight or curly."""
    assert words("\u201cDon\u2019t,\u201d said Emma's _aunt_ at 3 o'clock--\u00c9lan!") == [
        *("don't", "said", "emma's", "aunt", "at", "o'clock", "\u00e9lan")
    ]


def test_ids_follow_the_counts():
    """The most frequent word is 1, of equals the first in the alphabet; all others are 0."""
    tokenizer = most_frequent(["b a b", "c a b d"], 3)
    assert tokenizer.words == ("b", "a", "c")
    assert tokenizer.encode("A b C d").tolist() == [2, 1, 3, 0]
    assert tokenizer.decode([2, 1, 0]) == "a b \ufffd"


def test_a_saved_tokenizer_comes_back(tmp_path):
    """Under the kind "words" of the configuration, of the size asked for."""
    tokenizer = TokenizerConfig("words", vocabulary_size=3).train(["one two two"])
    tokenizer.save(tmp_path / "tokenizer.json")
    assert load(tmp_path / "tokenizer.json") == tokenizer
    assert tokenizer.vocabulary_size == 3
    with pytest.raises(UserError, match="vocabulary_size is 1"):
        TokenizerConfig("words", vocabulary_size=1).train(["one"])


@given(size=st.integers(2, 30), window=st.integers(1, 4))
def test_pairs_are_those_of_a_window_drawn_anew_for_each_word(size, window):
    """Over all records each pair occurs once for every window size that reaches it; no pair leaves the text."""
    pairs = Pairs(np.arange(size), window)
    batch = pairs.gather(np.arange(len(pairs)))
    inside = batch["mask"] > 0
    found = Counter(zip(batch["inputs"][inside].tolist(), batch["targets"][inside].tolist(), strict=True))
    expected = Counter(
        (centre, other)
        for centre in range(size)
        for reach in range(1, window + 1)
        for other in range(max(0, centre - reach), min(size, centre + reach + 1))
        if other != centre
    )
    assert found == expected
    index = len(pairs) // 2
    assert all(pairs[index][name] == batch[name][index] for name in batch)


def write(tmp_path):
    random = np.random.default_rng(0)
    for name, size in (("train", 4000), ("validation", 400)):
        drawn = random.choice(["often", "seldom", "rare"], size, p=[0.9, 0.09, 0.01])
        (tmp_path / f"{name}.txt").write_text(" ".join(drawn) + f" unique{'a' if name == 'train' else 'b'}")
    return TextData(
        train=(str(tmp_path / "train.txt"),),
        validation=(str(tmp_path / "validation.txt"),),
        tokenizer=TokenizerConfig("words", 4),
    )


def test_frequent_words_are_subsampled(tmp_path):
    """A word of share f stays with probability sqrt(threshold / f); unknown words go; equal builds are equal."""
    config = SkipGramData(write(tmp_path), window=2, threshold=0.01)
    data = config.build()
    before, after = word_counts(data), np.bincount(data.splits["train"].tokens, minlength=4)
    assert before[0] == after[0] == 0 and after[1] < 0.2 * before[1]
    np.testing.assert_allclose(after[1:3], before[1:3] * np.sqrt(0.01 / (before[1:3] / before.sum())), rtol=0.25)
    assert after[3] >= 0.9 * before[3]
    np.testing.assert_array_equal(config.build().splits["train"].tokens, data.splits["train"].tokens)
    assert data.summary["splits"]["train"]["words"] == after.sum()


def test_settings_that_cannot_work_are_refused(tmp_path):
    """A window of no word, and a text of which nothing is left."""
    config = SkipGramData(write(tmp_path))
    with pytest.raises(UserError, match=r"--data\.window 5"):
        dataclasses.replace(config, window=0).build()
    with pytest.raises(UserError, match="split has no pair"):
        dataclasses.replace(config, threshold=1e-12).build()
