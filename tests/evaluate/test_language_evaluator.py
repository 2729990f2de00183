"""Language models: tokens weighed alike, and n-grams on a chain whose entropy is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from batches import SIZE, assert_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sklearn_metrics

from research.evaluate.baselines import fit_ngrams
from research.evaluate.language import language_baselines, language_metrics
from research.evaluate.metrics import evaluate, make_evaluate

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)

EVALUATE = make_evaluate(language_metrics(characters_per_token=2.5), lambda _, batch: batch)


@quick
@given(seed=seeds)
def test_language_metrics_weigh_every_counted_token_alike(seed: int) -> None:
    """Loss is the mean over counted tokens of all batches, not a mean of means; the rest follows from it."""
    rng = np.random.default_rng(seed)
    batches = [
        {
            "logits": rng.normal(size=(SIZE, 5, 7), scale=3).astype(np.float32),
            "targets": rng.integers(0, 7, (SIZE, 5)),
            "mask": (rng.random((SIZE, 5)) < rng.random()).astype(np.float32),
        }
        for _ in range(3)
    ]
    batches[0]["mask"][0, 0] = 1
    results = EVALUATE({}, batches)

    logits, targets, mask = (np.concatenate([batch[name] for batch in batches]) for name in batches[0])
    logits, targets = logits[mask > 0].astype(np.float64), targets[mask > 0]
    loss = sklearn_metrics.log_loss(targets, softmax(logits, axis=-1), labels=range(7))
    assert_equal(
        results,
        {
            "loss": loss,
            "perplexity": np.exp(loss),
            "bits_per_character": loss / np.log(2) / 2.5,
            "accuracy": sklearn_metrics.accuracy_score(targets, logits.argmax(-1)),
        },
    )


def test_language_metrics_of_a_uniform_prediction() -> None:
    """Knowing nothing about 16 tokens of 2 characters costs ln 16 nats, perplexity 16, and 2 bits per character."""
    batch = {"targets": np.zeros((1, 3), int), "mask": np.ones((1, 3))}
    results = evaluate(language_metrics(2.0), lambda batch: {"logits": jnp.zeros((1, 3, 16), jnp.bfloat16)}, [batch])
    assert_equal(results, {"loss": np.log(16), "perplexity": 16, "bits_per_character": 2, "accuracy": 1})


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
