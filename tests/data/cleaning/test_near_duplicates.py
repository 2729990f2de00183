"""Near-duplicates are found exactly where the Jaccard similarity of word shingles says so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.cleaning.near_duplicates import SHINGLE, duplicates_of_earlier, near_duplicate_pairs

WORDS = [f"word{number}" for number in range(400)]


def text(seed: int, length: int = 200) -> list[str]:
    return list(np.random.default_rng(seed).choice(WORDS, size=length))


def true_similarity(left: str, right: str) -> float:
    sets = [
        {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}
        for words in (left.split(), right.split())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 199), max_size=40, unique=True), st.integers(0, 1000))
def test_a_pair_is_reported_with_its_true_similarity(changed: list[int], seed: int) -> None:
    """An edited copy is found, with the true Jaccard similarity, exactly when that reaches the threshold."""
    words = text(seed)
    copy = ["changed" if place in changed else word for place, word in enumerate(words)]
    left, right = " ".join(words), " ".join(copy)
    expected = true_similarity(left, right)
    pairs = near_duplicate_pairs([left, " ".join(text(seed + 5000)), right], 0.7)
    if expected >= 0.7:
        assert pairs == [(0, 2, pytest.approx(expected))]
    else:
        assert pairs == []


def test_case_and_punctuation_do_not_hide_a_copy() -> None:
    """Words are compared without case and punctuation, in scripts with and without spaces."""
    assert near_duplicate_pairs(["Well, worth the money!", "well worth THE money"], 1.0) == [(0, 1, 1.0)]
    assert near_duplicate_pairs(["吾輩は猫である。名前はまだ無い。", "吾輩は猫である、名前はまだ無い"], 1.0) == [
        (0, 1, 1.0)
    ]


def test_word_order_matters() -> None:
    """The same words in another order are no duplicates."""
    words = text(0)
    assert near_duplicate_pairs([" ".join(words), " ".join(reversed(words))], 0.5) == []


def test_the_first_of_a_group_is_kept_and_chains_do_not_drag() -> None:
    """Each text is compared with kept texts only: a text far from all of those is kept."""
    first = text(1)
    second = [*first[:180], *text(2)[:20]]
    third = [*text(3)[:30], *second[30:]]
    texts = [" ".join(words) for words in (first, second, third)]
    assert true_similarity(texts[0], texts[1]) >= 0.7 <= true_similarity(texts[1], texts[2])
    assert true_similarity(texts[0], texts[2]) < 0.7
    assert duplicates_of_earlier(texts, 0.7) == {1: 0}
    assert duplicates_of_earlier([texts[0]] * 3, 0.7) == {1: 0, 2: 0}


def test_texts_without_words_are_compared_whole() -> None:
    """Punctuation alone makes no false duplicates."""
    assert near_duplicate_pairs(["!!!", "???", "!!!", ""], 0.5) == [(0, 2, 1.0)]


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_bad_threshold_is_refused(threshold: float) -> None:
    """A threshold outside (0, 1] is the user's mistake."""
    with pytest.raises(UserError, match="threshold"):
        near_duplicate_pairs(["a"], threshold)


def test_pairs_below_the_threshold_are_no_false_alarm() -> None:
    """Of copies with 1 to 19 words changed, those reported are the ones whose true similarity reaches the threshold."""
    words = text(7)
    texts = [" ".join(words)]
    for count in range(1, 20):
        changed = {place * 200 // count for place in range(count)}
        texts.append(" ".join(f"changed{place}" if place in changed else word for place, word in enumerate(words)))
    expected = {index for index in range(1, 20) if true_similarity(texts[0], texts[index]) >= 0.7}
    assert 0 < len(expected) < 19
    assert {right for left, right, _ in near_duplicate_pairs(texts, 0.7) if left == 0} == expected
