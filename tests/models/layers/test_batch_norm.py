"""Batch normalisation against Flax's own layer, and its statistics as mergeable sums."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.layers.batch_norm import BatchNorm, is_running_statistic
from research.models.model import STATISTICS


@pytest.fixture
def inputs():
    return 3 + 2 * jax.random.normal(jax.random.key(0), (8, 5, 5, 4))


def run(params, inputs, train):
    outputs, state = BatchNorm().apply({"params": params}, inputs, train, mutable=[STATISTICS])
    return outputs, state.get(STATISTICS)


def initial(inputs):
    return BatchNorm().init(jax.random.key(0), inputs, False)["params"]


def test_agrees_with_flax_in_training_and_after_running_updates(inputs):
    """Outputs and running averages equal flax.linen.BatchNorm's over three steps."""
    params = initial(inputs)
    peer = nn.BatchNorm(momentum=0.9, epsilon=1e-5)
    peer_state = peer.init(jax.random.key(0), inputs, use_running_average=True)
    for step in range(3):
        batch = inputs * (1 + step) - step
        outputs, statistics = run(params, batch, True)
        expected, update = peer.apply(peer_state, batch, use_running_average=False, mutable=["batch_stats"])
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
        peer_state = {**peer_state, **update}
        averages = {name: 0.9 * params[name] + 0.1 * total / weight for name, (total, weight) in statistics.items()}
        params = {**params, **averages}
    np.testing.assert_allclose(params["mean"], peer_state["batch_stats"]["mean"], rtol=1e-5)
    np.testing.assert_allclose(params["variance"], peer_state["batch_stats"]["var"], rtol=1e-4)
    expected = peer.apply(peer_state, inputs, use_running_average=True)
    np.testing.assert_allclose(run(params, inputs, False)[0], expected, rtol=1e-4, atol=1e-5)


def test_statistics_pair_with_parameters_and_add_up(inputs):
    """The sums of two halves add up to the whole batch's mean, at the paths of the parameters."""
    params = initial(inputs)
    full, halves = run(params, inputs, True)[1], [run(params, half, True)[1] for half in (inputs[:4], inputs[4:])]
    assert set(full) == {"mean", "variance"} <= set(params)
    total = jax.tree.map(jnp.add, *halves)
    np.testing.assert_allclose(total["mean"][0], full["mean"][0], rtol=1e-5)
    assert total["mean"][1] == full["mean"][1] == 8 * 5 * 5


def test_large_means_do_not_cancel(inputs):
    """A mean ten thousand times the deviation still gives unit variance."""
    outputs, _ = run(initial(inputs), 2e4 + inputs, True)
    np.testing.assert_allclose(outputs.std((0, 1, 2)), 1, rtol=1e-2)


def test_evaluation_records_nothing(inputs):
    """Outside training there are no statistics; the running averages are named as variables, which do not learn."""
    params = initial(inputs)
    assert run(params, inputs, False)[1] is None
    assert {name for name in params if is_running_statistic(f"norm/{name}")} == {"mean", "variance"}


def test_half_precision_inputs_keep_their_type_and_float32_statistics(inputs):
    """bfloat16 in, bfloat16 out, sums in float32."""
    outputs, statistics = run(initial(inputs), inputs.astype(jnp.bfloat16), True)
    assert outputs.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {jnp.dtype(jnp.float32)}
