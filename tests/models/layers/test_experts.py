"""Mixture of experts: equal experts are one MLP, slots are given in order, nothing else decides where a token goes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core import trees
from research.core.errors import UserError
from research.core.mesh import MeshConfig, on_mesh
from research.core.shapes import Spec
from research.data.dataset import Data
from research.data.text.packing import Windows
from research.models.change_layer import change_layer
from research.models.gpt import GPT
from research.models.layers.experts import assign, load_balancing_loss, permute
from research.models.model import Sown
from research.tasks.language_modelling import LanguageModelling
from research.tasks.task import Context, Loss

KEY = jax.random.key(0)
LENGTH, VOCABULARY = 8, 7
DENSE = GPT(depth=2, width=16, heads=4, context=LENGTH, activation="swiglu", mlp_dim=24)
MIXED = dataclasses.replace(DENSE, experts=4)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (3, LENGTH)), jnp.int32)


def build(config):
    """The model and parameters of its shapes, drawn so large that every part matters."""
    model, random = config.build(Spec(VOCABULARY)), np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, KEY, {"inputs": TOKENS})
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.3 * random.standard_normal(leaf.shape, np.float32)), shapes)


@functools.cache
def compiled(apply):
    return jax.jit(lambda params, inputs: apply(params, {"inputs": inputs})[0])


def logits(model, params, inputs=TOKENS):
    return np.asarray(compiled(model.apply)(params, inputs))


@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}, {"scan": True}])
def test_equal_experts_with_room_for_all_are_one_mlp(options):
    """Every expert the dense MLP, a capacity that holds every token: the logits of the dense model."""
    dense, params = build(dataclasses.replace(DENSE, **options))
    mixed, mixture = build(dataclasses.replace(MIXED, capacity_factor=4.0, **options))

    def as_experts(path, leaf):
        if "/router/" in path:
            return leaf
        source = flat[path.replace("/experts/", "/mlp/")]
        axis = 1 if options.get("scan") else 0
        copies = jnp.stack([source] * MIXED.experts, axis)
        return copies if "/experts/" in path else source

    flat = trees.flatten(params)
    np.testing.assert_allclose(
        logits(mixed, trees.map_with_path(as_experts, mixture)), logits(dense, params), rtol=1e-4, atol=1e-5
    )
    assert np.abs(logits(mixed, mixture) - logits(dense, params)).max() > 1e-2


@pytest.mark.parametrize("top", [1, 2, 3])
def test_a_token_gets_its_likeliest_experts_by_weight(top):
    """With room for all: the sum, by hand, of the likeliest experts' outputs; only several weights add up to one."""
    config = dataclasses.replace(MIXED, depth=1, experts_per_token=top, capacity_factor=8.0)
    model, params = build(config)

    @jax.jit
    def taken_and_given(params):
        seen = []

        def spy(layer, x, train):
            seen.extend((x, layer(x, train)))
            return seen[1]

        change_layer(model, "experts$", spy).apply(params, {"inputs": TOKENS})
        return seen

    x, found = (np.asarray(array, np.float64) for array in taken_and_given(params))
    layer = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["block_0"]["experts"])
    scores = x @ layer["router"]["kernel"]
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)

    def expert(index, token):
        up, gate = (token @ layer[name]["kernel"][index] + layer[name]["bias"][index] for name in ("up", "gate"))
        return up * gate / (1 + np.exp(-gate)) @ layer["down"]["kernel"][index] + layer["down"]["bias"][index]

    for place in np.ndindex(TOKENS.shape):
        best = np.argsort(-probabilities[place])[:top]
        total = probabilities[place][best].sum() if top > 1 else 1
        expected = sum(probabilities[place][index] * expert(index, x[place]) / total for index in best)
        np.testing.assert_allclose(found[place], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("capacity", [0.25, 1.25, 4.0])
def test_neither_what_follows_nor_other_rows_decide(capacity):
    """Under any capacity, a changed token changes no logit before it and none of another row."""
    model, params = build(dataclasses.replace(MIXED, capacity_factor=capacity))
    before = logits(model, params)
    after = logits(model, params, TOKENS.at[1, 5].add(1) % VOCABULARY)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(after[1, :5], before[1, :5])
    assert (after[1, 5:] != before[1, 5:]).any()


def test_a_mixture_writes_step_by_step():
    """Its cache is made without a token, and a text read with it gives the logits of the text read at once."""
    model, params = build(dataclasses.replace(MIXED, positions="rotary"))
    cache, first = model.decoding.init_cache(params, len(TOKENS), LENGTH), jnp.zeros(len(TOKENS), jnp.int32)
    written, _ = jax.jit(model.decoding.decode_step)(params, cache, TOKENS, jnp.int32(0), first)
    np.testing.assert_allclose(written, logits(model, params), rtol=1e-4, atol=1e-5)


def test_a_token_beyond_the_capacity_passes_by():
    """A capacity of one: the fraction dropped is reported, and a dropped token leaves the layer as zeros."""
    model, params = build(dataclasses.replace(MIXED, depth=1, experts_per_token=1, capacity_factor=1e-3, bias=True))

    def dropped(model):
        return jax.jit(
            lambda params: model.apply(params, {"inputs": TOKENS}, train=True, key=KEY)[1].metrics["dropped"]
        )(params)

    assert (dropped(model) >= 1 - MIXED.experts / LENGTH).all()
    roomy, _ = build(dataclasses.replace(MIXED, depth=1, experts_per_token=1, capacity_factor=4.0))
    assert not dropped(roomy).any()


ASSIGN = jax.jit(assign, static_argnums=(1, 2))
CHOICES = st.sampled_from([1, 12]).flatmap(lambda size: st.lists(st.integers(0, 3), min_size=size, max_size=size))


@given(chosen=CHOICES, capacity=st.sampled_from([1, 2, 5]))
def test_slots_are_given_in_order_up_to_the_capacity(chosen, capacity):
    """The slots of a row are those that a loop would give, and both results are inverse to each other."""
    slots, taken = (np.asarray(x)[0] for x in ASSIGN(np.int32([chosen]), 4, capacity))
    filled = [0] * 4
    for choice, (expert, slot) in enumerate(zip(chosen, slots, strict=True)):
        expected = expert * capacity + filled[expert] if filled[expert] < capacity else 4 * capacity
        assert slot == expected
        filled[expert] += 1
        assert slot == 4 * capacity or taken[slot] == choice
    assert sum(taken < len(chosen)) == sum(slots < 4 * capacity)


def test_the_inverse_permutation_undoes_it_and_so_does_the_gradient():
    """Permuted and back gives the rows that found a slot, else zeros; the gradient is that of a plain gather."""
    x = jax.random.normal(KEY, (2, 6, 3))
    slots, taken = ASSIGN(np.int32([[0, 0, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0]]), 2, 2)
    kept = (np.asarray(slots) < 4)[..., None]
    back = jax.jit(lambda x: permute(permute(x, taken, slots), slots, taken))(x)
    np.testing.assert_array_equal(back, np.where(kept, x, 0))
    weights = jax.random.normal(jax.random.key(1), (2, 4, 3))

    def plain(x):
        return (jnp.take_along_axis(x, taken[..., None], 1, mode="fill", fill_value=0) * weights).sum()

    found = jax.jit(jax.grad(lambda x: (permute(x, taken, slots) * weights).sum()))(x)
    np.testing.assert_allclose(found, jax.jit(jax.grad(plain))(x), rtol=1e-6)


BALANCE = jax.jit(load_balancing_loss)


@settings(max_examples=20)
@given(experts=st.sampled_from([2, 5]), seed=st.integers(0, 100))
def test_the_balance_loss_is_one_where_experts_are_used_alike(experts, seed):
    """Fedus et al. 2021, eq. 4: 1 for an even use, as many as there are experts where all choose one."""
    even = np.full((1, experts, experts), 1 / experts, np.float32)
    np.testing.assert_allclose(BALANCE(even, np.arange(experts)[None, :, None]), 1, rtol=1e-5)
    chosen = np.full((1, experts), seed % experts)
    np.testing.assert_allclose(
        BALANCE(np.eye(experts, dtype=np.float32)[chosen], chosen[..., None]), experts, rtol=1e-5
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"scan": True}, marks=pytest.mark.slow),
        pytest.param({"remat": True}, marks=pytest.mark.slow),
        {"scan": True, "remat": True},
    ],
)
def test_layers_report_by_row_and_in_training_only(options):
    """Losses add up over layers, the fraction of dropped choices is their mean; evaluation reports nothing."""
    model, params = build(dataclasses.replace(MIXED, balance_weight=0.5, **options))
    _, sown = jax.jit(lambda params: model.apply(params, {"inputs": TOKENS}, train=True, key=KEY))(params)
    assert {name: rows.shape for name, rows in {**sown.losses, **sown.metrics}.items()} == {
        "balance": (3,),
        "dropped": (3,),
    }
    assert (sown.losses["balance"] >= 0.5 * MIXED.depth * 0.9).all()
    assert ((sown.metrics["dropped"] >= 0) & (sown.metrics["dropped"] < 1)).all()
    assert jax.eval_shape(model.apply, params, {"inputs": TOKENS})[1] == Sown()


def test_the_balance_loss_of_parts_adds_up_to_that_of_the_batch():
    """The task weighs each row by its tokens: any two parts of a batch add up, masks included."""
    data = Data({"train": Windows(np.arange(60, dtype=np.int32) % VOCABULARY, LENGTH, 1)}, VOCABULARY)
    task = LanguageModelling().build(MIXED, data)
    _, params = build(MIXED)
    mask = np.float32(np.random.default_rng(0).random((4, LENGTH)) < 0.7)
    inputs = np.resize(TOKENS, (4, LENGTH))
    batch = {"inputs": inputs, "targets": np.roll(inputs, -1, 1), "mask": mask}
    loss = jax.jit(task.loss)

    def of(rows, train=True) -> Loss:
        return loss(params, {name: array[rows] for name, array in batch.items()}, Context(KEY, 0, train))

    full, first, second = of(slice(None)), of(slice(2)), of(slice(2, None))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), jax.tree.map(jnp.add, first, second), full)
    plain = of(slice(None), train=False)
    np.testing.assert_allclose(full.sum, plain.sum + full.metrics["balance"].sum, rtol=1e-5)
    assert full.metrics["dropped"].weight == full.weight == mask.sum()


def test_the_router_learns_from_the_balance_and_from_the_loss():
    """Each of both terms has a gradient for the router, so that without the balance it is another one."""

    for top in (1, 2):
        model, params = build(dataclasses.replace(MIXED, depth=1, balance_weight=1.0, experts_per_token=top))

        def losses(params, model=model):
            outputs, sown = model.apply(params, {"inputs": TOKENS}, train=True, key=KEY)
            return jnp.stack([jnp.square(outputs).mean(), sown.losses["balance"].mean()])

        gradients = jax.jit(jax.jacrev(losses))(params)["block_0"]["experts"]["router"]["kernel"]
        assert (np.abs(gradients).max((1, 2)) > 1e-4).all()


def test_experts_that_the_mesh_cannot_share_are_refused():
    """Both numbers, and what to do."""
    model, params = build(MIXED)
    mesh = MeshConfig(data=1, expert=3).build(jax.devices()[:1] * 3)
    with pytest.raises(UserError, match=r"4 experts cannot be shared evenly by 3 devices: make --mesh.expert"):
        jax.eval_shape(on_mesh(mesh, model.apply), params, {"inputs": TOKENS})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts_per_token": 5}, "5 of 4 experts: set --model.experts-per-token 1 to 4"),
        ({"capacity_factor": 0.0}, "--model.capacity-factor is 0.0: give a number above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """One sentence with the numbers, and what would fit."""
    with pytest.raises(UserError, match=message):
        dataclasses.replace(MIXED, **options).build(Spec(VOCABULARY))
