"""Promises of LoRA: nothing changes at first; trained, only the updates move; merged, the plain model does the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from research.core import trees
from research.core.errors import UserError
from research.core.shapes import Spec
from research.models.gpt import GPT
from research.models.wrappers.lora import BRANCH, LoRA, merged, with_lora
from research.train.optimizers import Optimizer
from research.train.state import partition

LORA = LoRA(rank=2, alpha=4.0)
TOKENS = np.int32([[1, 4, 2, 6, 3, 0]])


@pytest.fixture(scope="module", params=[False, True], ids=["unrolled", "scanned"])
def models(request):
    """A plain model, the same with LoRA, and the latter's parameters; what is applied is compiled once."""
    plain = GPT(depth=2, width=16, heads=2, context=8, scan=request.param).build(Spec(8))
    adapted = with_lora(plain, LORA)
    params = jax.jit(adapted.init)(jax.random.key(0), {"inputs": TOKENS})
    plain, adapted = (model._replace(apply=jax.jit(model.apply)) for model in (plain, adapted))
    return plain, adapted, params


def train(adapted, params, steps=3):
    """Takes some steps; returns the parameters and the optimizer's state."""
    learned, fixed, _ = partition(params, fixed=adapted.fixed, variables=adapted.variables)
    optimizer = Optimizer("adamw", learning_rate=0.1, weight_decay=0.1).build(1, learned)
    state = jax.jit(optimizer.init)(learned)

    @jax.jit
    def step(learned, state):
        gradients = jax.grad(lambda p: jnp.square(adapted.apply({**fixed, **p}, {"inputs": TOKENS})[0] - 1).sum())(
            learned
        )
        updates, state = optimizer.update(gradients, state, learned)
        return optax.apply_updates(learned, updates), state

    for _ in range(steps):
        learned, state = step(learned, state)
    return {**fixed, **learned}, state


def test_at_first_the_outputs_are_the_plain_models(models) -> None:
    """One factor of each update is zero."""
    plain, adapted, params = models
    own = {name: branch for name, branch in params.items() if name != BRANCH}
    np.testing.assert_array_equal(adapted.apply(params, {"inputs": TOKENS})[0], plain.apply(own, {"inputs": TOKENS})[0])


def test_training_moves_the_updates_alone_and_merging_keeps_the_outputs(models) -> None:
    """The base is bit for bit what it was, without moments; the merged parameters are a plain model's."""
    plain, adapted, params = models
    trained, state = train(adapted, params)
    before, after = trees.flatten(params), trees.flatten(trained)
    for path, leaf in before.items():
        assert (np.asarray(leaf) != np.asarray(after[path])).any() == path.startswith(f"{BRANCH}/"), path
    moments = [path for path in trees.flatten(state) if "/block" in path and f"/{BRANCH}/" not in path]
    assert not moments, "a frozen parameter takes no memory in the optimizer"
    full = merged(trained, LORA)
    assert (
        trees.flatten(full).keys()
        == trees.flatten(jax.eval_shape(plain.init, jax.random.key(0), {"inputs": TOKENS})).keys()
    )
    found, expected = plain.apply(full, {"inputs": TOKENS})[0], adapted.apply(trained, {"inputs": TOKENS})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(expected) - np.asarray(adapted.apply(params, {"inputs": TOKENS})[0])).max() > 0.1


def test_every_parameter_matches_one_sharding_rule(models) -> None:
    """Those of the plain model its own, the factors one of two, which shard what they share with the kernel."""
    plain, adapted, params = models
    specs = trees.match_rules(adapted.sharding, params, what="sharding")
    own = trees.match_rules(plain.sharding, {name: params[name] for name in params if name != BRANCH}, what="sharding")
    assert {name: specs[name] for name in own} == own
    factors = trees.flatten(specs[BRANCH])
    assert {(path.rpartition("/")[2], spec) for path, spec in factors.items()} == {
        ("down_kernel", P("fsdp", None)),
        ("up_kernel", P(None, "fsdp")),
    }


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    """In one sentence that shows it."""
    with pytest.raises(UserError, match="0 kernels that match 'nothing'"):
        model = with_lora(GPT(depth=1).build(Spec(8)), LoRA(rank=2, pattern="nothing"))
        jax.eval_shape(model.init, jax.random.key(0), {"inputs": TOKENS})


def test_a_kernel_is_not_trained_beside_its_update() -> None:
    """Other parameters may be, by path; one that has an update is refused."""
    plain = GPT(depth=1, width=8, heads=2, context=8)
    norms = with_lora(plain.build(Spec(8)), LoRA(rank=2, trained="norm"))
    assert not norms.fixed("block_0/attention_norm/scale") and norms.fixed("block_0/mlp/up/kernel")
    with pytest.raises(UserError, match="would be trained as well"):
        model = with_lora(plain.build(Spec(8)), LoRA(rank=2, trained="mlp"))
        jax.eval_shape(model.init, jax.random.key(0), {"inputs": TOKENS})
