"""Baselines: proper distributions, equal to a slow reference, and sound on data whose entropy is known."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.evaluate.baselines import (
    binary_baseline,
    classification_baseline,
    fit_ngrams,
    language_baselines,
    ngram_probabilities,
    ranking_baseline,
    regression_baseline,
)

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


def test_language_baselines_find_the_entropy_of_a_markov_chain() -> None:
    """On a first-order chain the 2-gram reaches the entropy rate, the 1-gram the entropy of single tokens."""
    rng = np.random.default_rng(0)
    stay = 0.9  # a symmetric chain of two states: ln 2 nats a token alone, H(0.9) nats given the last one
    chain = np.cumsum(rng.random(400_000) > stay) % 2
    table = language_baselines(chain[:200_000], chain[200_000:], vocabulary=2, characters_per_token=1.0)
    entropy_rate = -(stay * np.log(stay) + (1 - stay) * np.log(1 - stay))
    assert table["1-gram"]["loss"] == pytest.approx(np.log(2), abs=0.003)
    assert table["2-gram"]["loss"] == pytest.approx(entropy_rate, abs=0.003)
    assert table["3-gram"]["loss"] == pytest.approx(entropy_rate, abs=0.003)
    assert table["2-gram"]["bits_per_character"] == pytest.approx(entropy_rate / np.log(2), abs=0.005)


def test_language_baselines_work_for_a_large_vocabulary() -> None:
    """Memory follows the n-grams seen: 50,000 tokens need no table of 50,000 cubed."""
    rng = np.random.default_rng(1)
    text = rng.zipf(1.3, 60_000) % 50_000
    table = language_baselines(text[:50_000], text[50_000:], vocabulary=50_000, characters_per_token=4.0)
    assert all(0 < results["loss"] < np.log(50_000) for results in table.values())
    with pytest.raises(ValueError, match="2\\*\\*63"):
        fit_ngrams(text, 3, 2**21)


def test_classification_baseline_predicts_the_majority_with_its_frequency() -> None:
    """Accuracy is the majority's share of the evaluated labels; the loss comes from the training frequencies."""
    train, labels = np.array([0, 1, 1, 1, 1, 1, 1]), np.array([1, 1, 0, 2])
    results = classification_baseline(train, labels, classes=3)["majority class"]
    assert results["accuracy"] == 0.5
    assert results["loss"] == pytest.approx(-np.log([0.7, 0.7, 0.2, 0.1]).mean(), rel=1e-6)  # (count + 1) / 10
    assert all(isinstance(value, float) for value in results.values())


def test_binary_baseline_predicts_the_majority_and_ranks_nothing() -> None:
    """The rare class is never predicted, and the ROC-AUC of a constant is exactly one half."""
    train, labels = np.array([0, 0, 0, 0, 0, 0, 0, 1]), np.array([0, 0, 0, 1])
    results = binary_baseline(train, labels)["majority class"]
    assert (results["accuracy"], results["recall"], results["roc_auc"]) == (0.75, 0.0, 0.5)
    assert results["loss"] == pytest.approx(-np.log([0.8, 0.8, 0.8, 0.2]).mean(), rel=1e-6)  # (count + 1) / 10


def test_ranking_baseline_ranks_by_frequency() -> None:
    """More targets than are ranked at once: ranks 1 and 2 half the time each, in training and test."""
    train = np.array([3] * 5 + [1] * 3)
    results = ranking_baseline(train, np.array([3, 1] * 1500), candidates=5)["frequency"]
    assert results["mean_reciprocal_rank"] == pytest.approx(0.75, rel=1e-6)
    assert results["loss"] == pytest.approx(-np.log([6 / 13, 4 / 13]).mean(), rel=1e-6)


def test_regression_baseline_explains_nothing() -> None:
    """Where both splits have the same mean, its error is the variance and R2 is zero."""
    targets = np.array([[1.0, 10.0], [3.0, 30.0]])
    results = regression_baseline(targets, targets)["mean"]
    assert results == {"loss": pytest.approx(50.5), "mean_absolute_error": pytest.approx(5.5), "r2": pytest.approx(0)}
