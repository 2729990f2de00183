"""BLEU and chrF against numbers made by the reference implementation, or counted by hand."""

import pytest

from research.evaluate.translation import bleu, chrf, tokenise_13a

WRITTEN = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]

EXPECTED = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]


def test_bleu_and_chrf_of_a_corpus():
    """The example of sacreBLEU's documentation, first reference: what sacreBLEU 2.6.0 gives."""
    assert bleu(WRITTEN, EXPECTED) == pytest.approx(45.067, abs=1e-3)
    assert chrf(WRITTEN, EXPECTED) == pytest.approx(50.043, abs=1e-3)


def test_bleu_smooths_lengths_that_match_nowhere():
    """Two words of four, no pair: 1/2 for pairs, 1/4 for threes, 1/8 for fours (Chen and Cherry 2014, method 3)."""
    expected = 100 * (2 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** 0.25
    assert bleu(["a x b y"], ["a q b z"]) == pytest.approx(expected)


def test_bleu_punishes_what_is_too_short():
    """By exp(1 - reference / hypothesis) where all that is written is right."""
    assert bleu(["a b c d"], ["a b c d e f"]) == pytest.approx(100 * 2.718281828 ** (1 - 6 / 4))
    assert bleu([""], ["a b"]) == bleu(["a b c"], ["a b c"]) == 0  # no run of four anywhere


def test_words_are_divided_as_by_mteval():
    """Points and commas stay inside numbers, dashes inside words; entities are read."""
    found = tokenise_13a("Don't pay 1,000.50 (or 7-8) &quot;so-so&quot;.")
    assert found == ["Don't", "pay", "1,000.50", "(", "or", "7", "-", "8", ")", '"', "so-so", '"', "."]
