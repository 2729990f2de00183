"""The shuffled order: a permutation in every epoch, random access, and different for every seed and epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.data.shuffle import shuffled

COUNTS = st.integers(1, 300)
SEEDS = st.integers(-(2**31), 2**40)


@given(count=COUNTS, seed=SEEDS, epoch=st.integers(0, 1000))
def test_every_epoch_visits_every_record_once(count, seed, epoch):
    """Whatever their number, the seed and the epoch."""
    order = shuffled(np.arange(epoch * count, (epoch + 1) * count), count, seed)
    assert sorted(order.tolist()) == list(range(count))


@given(count=COUNTS, seed=SEEDS, positions=st.lists(st.integers(0, 10_000), max_size=20))
def test_a_position_has_its_index_whatever_is_asked_beside_it(count, seed, positions):
    """Any rows of any batch can be computed alone, on any host."""
    order = shuffled(np.arange(10_001), count, seed)
    places = np.array(positions, np.int64)
    np.testing.assert_array_equal(shuffled(places, count, seed), order[places])


def test_seeds_and_epochs_shuffle_apart():
    """No two of 40 orders of 100 records agree in more than a few places, nor with the sorted one."""
    orders = [shuffled(np.arange(2000), 100, seed).reshape(20, 100) for seed in (0, 1)]
    orders = [*orders[0], *orders[1], np.arange(100)]
    agreements = [(left == right).sum() for n, left in enumerate(orders) for right in orders[:n]]
    assert max(agreements) < 10
    np.testing.assert_allclose(np.mean(agreements), 1, atol=0.15)  # expected of random permutations: 1


@pytest.mark.parametrize("count", [2, 3, 5, 6, 16, 50, 100])
def test_every_record_is_as_likely_at_every_place(count):
    """Chi-squared over 10,000 epochs: within five standard deviations of its mean."""
    epochs = 10_000
    orders = shuffled(np.arange(count * epochs), count, 3).reshape(epochs, count)
    table = np.stack([np.bincount(orders[:, place], minlength=count) for place in range(count)])
    expected = epochs / count
    statistic = (np.square(table - expected) / expected).sum()
    degrees = (count - 1) ** 2
    assert abs(statistic - degrees) < 5 * (2 * degrees) ** 0.5


def test_large_sets_need_no_table():
    """A trillion records, at the end of the thousandth epoch."""
    count = 10**12
    order = shuffled(np.arange(1000 * count - 5, 1000 * count), count, 0)
    assert len(set(order.tolist())) == 5
    assert order.max() < count
