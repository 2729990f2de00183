"""N-gram models: proper distributions, equal to a slow reference."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.evaluate.baselines import fit_ngrams, ngram_probabilities

VOCABULARY = 5

tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=3, max_size=60).map(np.array)

quick = settings(max_examples=50, deadline=None)


def reference_probability(train: list[int], context: tuple[int, ...], token: int) -> float:
    """Witten-Bell interpolation as the papers write it: p(token | context), by recursion and dictionaries."""
    shorter = reference_probability(train, context[1:], token) if context else 1 / VOCABULARY
    length = len(context)
    windows = [tuple(train[start : start + length + 1]) for start in range(len(train) - length)]
    following = Counter(window[-1] for window in windows if window[:-1] == context)
    if not following:
        return shorter
    return (following[token] + len(following) * shorter) / (following.total() + len(following))


@quick
@given(train=tokens, evaluated=tokens, order=st.integers(1, 3))
def test_ngram_probabilities_equal_a_plain_python_reference(
    train: np.ndarray, evaluated: np.ndarray, order: int
) -> None:
    """Every token of any text gets the probability that the recursive definition gives it."""
    probability = ngram_probabilities(fit_ngrams(train, order, VOCABULARY), evaluated, VOCABULARY)
    text = evaluated.tolist()
    expected = [
        reference_probability(train.tolist(), tuple(text[max(0, position - order + 1) : position]), token)
        for position, token in enumerate(text)
    ]
    np.testing.assert_allclose(probability, expected, rtol=1e-12)


@quick
@given(train=tokens, context=st.lists(st.integers(0, VOCABULARY - 1), max_size=4))
def test_ngram_probabilities_sum_to_one(train: np.ndarray, context: list[int]) -> None:
    """After any context, seen or not, the probabilities of the whole vocabulary sum to one."""
    model = fit_ngrams(train, 3, VOCABULARY)
    total = sum(ngram_probabilities(model, np.array([*context, token]), VOCABULARY)[-1] for token in range(VOCABULARY))
    assert total == pytest.approx(1, abs=1e-12)
