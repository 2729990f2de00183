"""Promises of sampling: each filter keeps exactly the tokens that its definition says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.core.ranges import check
from research.decoding.sampling import Counts, Sampling

LOGITS = (
    st.sampled_from([2, 3, 12])  # each size compiles the programs once more
    .flatmap(lambda size: st.lists(st.integers(-40, 40), min_size=size, max_size=size, unique=True))
    .map(lambda each: np.array([each], np.float32) / 8)
)


def none(logits):
    zeros = jnp.zeros(logits.shape, jnp.int32)
    return Counts(zeros, zeros)


def kept(sampling, logits):
    """Returns which tokens may be drawn."""
    return np.isfinite(np.asarray(sampling.filtered(jnp.asarray(logits), none(logits))))[0]


def probabilities(logits):
    weights = np.exp(logits[0].astype(np.float64))
    return weights / weights.sum()


@given(LOGITS, st.integers(1, 12))
def test_top_k_keeps_the_k_likeliest(logits, k) -> None:
    """As many as there are where k is more."""
    order = np.argsort(-logits[0])
    expected = np.isin(np.arange(logits.size), order[:k])
    np.testing.assert_array_equal(kept(Sampling(top_k=k), logits), expected)


@given(LOGITS, st.floats(0.05, 0.99))
def test_top_p_keeps_the_fewest_tokens_that_reach_p(logits, p) -> None:
    """Without the least of them their probabilities sum to less than p."""
    mask, each = kept(Sampling(top_p=p), logits), probabilities(logits)
    assert each[mask].sum() >= p - 1e-5
    assert each[mask].sum() - each[mask].min() < p + 1e-5
    assert mask[each.argmax()] and (mask.all() or each[mask].min() > each[~mask].max())


@given(LOGITS, st.floats(0.01, 1.0))
def test_min_p_keeps_what_is_near_the_likeliest(logits, p) -> None:
    """At least p times as probable as it."""
    ratio = probabilities(logits) / probabilities(logits).max()
    decided = np.abs(ratio - p) > 1e-5
    np.testing.assert_array_equal(kept(Sampling(min_p=p), logits)[decided], (ratio >= p)[decided])


def test_penalties_change_only_tokens_that_were_there() -> None:
    """Repetition: prompt and text, towards less likely on both sides of 0; presence and frequency: the text alone."""
    logits = jnp.asarray([[2.0, -2.0, 2.0, 2.0]])
    counts = Counts(jnp.asarray([[1, 1, 0, 0]]), jnp.asarray([[0, 0, 3, 0]]))
    options = {"repetition_penalty": 2.0, "presence_penalty": 0.5, "frequency_penalty": 0.25}
    found = Sampling(**options).filtered(logits, counts)
    np.testing.assert_allclose(found, [[1.0, -4.0, 1.0 - 0.5 - 0.75, 2.0]])


def test_draws_follow_the_filtered_distribution() -> None:
    """20,000 draws at temperature 0.5 from the top 3 of 5: frequencies within four standard deviations."""
    logits, draws = jnp.asarray([[0.1, 0.6, -0.3, 0.9, 0.4]]), 20_000
    many = jnp.repeat(logits, draws, axis=0)
    sampling = Sampling(temperature=0.5, top_k=3)
    tokens = sampling.choose(many, none(many), jax.random.split(jax.random.key(0), draws))
    expected = np.asarray(jax.nn.softmax(sampling.filtered(logits, none(logits))))[0]
    found = np.bincount(tokens, minlength=5) / draws
    assert found[0] == found[2] == 0
    np.testing.assert_array_less(np.abs(found - expected), 4 * np.sqrt(0.25 / draws))


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_p": 0.0}, {"min_p": 2.0}, {"top_k": -1}])
def test_values_out_of_range_are_refused(options) -> None:
    """In one sentence that names the option."""
    with pytest.raises(UserError, match=next(iter(options)).replace("_", "-")):
        check(Sampling(**options))
