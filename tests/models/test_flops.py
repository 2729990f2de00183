"""The table of layers: against XLA's own count, and against counts by hand."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from research.core.shapes import Spec
from research.models.flops import TOP, layer_table
from research.models.gpt import GPT
from research.models.mlp import MLP
from research.models.model import functional
from research.models.resnet import ResNet

KEY = jax.random.key(0)


def abstract(model, shape, dtype=jnp.float32):
    batch = {"inputs": jax.ShapeDtypeStruct(shape, dtype)}
    return model, jax.eval_shape(model.init, KEY, batch), batch


def by_path(rows):
    return {row["path"]: row for row in rows}


def total(rows, column="flops"):
    return sum(row[column] for row in rows)


def test_an_mlp_costs_what_xla_says():
    """Within the few per cent that biases and activations add."""
    model, params, batch = abstract(MLP((256, 64)).build(Spec(10)), (32, 28, 28))
    compiled = jax.jit(lambda params, batch: model.apply(params, batch)[0]).lower(params, batch).compile()
    assert total(layer_table(model, params, batch)) == pytest.approx(compiled.cost_analysis()["flops"], rel=0.02)


def test_an_mlp_is_one_row_a_layer_in_order():
    """Parameters and FLOPs of each layer, by hand."""
    assert layer_table(*abstract(MLP((3,)).build(Spec(2)), (5, 4))) == [
        {"path": "hidden_0", "parameters": 4 * 3 + 3, "flops": 2 * 5 * 4 * 3},
        {"path": "output", "parameters": 3 * 2 + 2, "flops": 2 * 5 * 3 * 2},
    ]


def test_convolutions_cost_outputs_times_window():
    """The stem, a strided convolution, and a ResNet-50 as a whole (4.09 GMAC in torchvision's documentation)."""
    rows = by_path(layer_table(*abstract(ResNet(width=8).build(Spec(10)), (2, 28, 28, 1))))
    assert rows["stem"]["flops"] == 2 * (2 * 28 * 28 * 8) * (3 * 3 * 1)
    assert rows["stage_1_block_0/conv_0"]["flops"] == 2 * (2 * 14 * 14 * 16) * (3 * 3 * 8)
    assert rows["stem_norm"] == {"path": "stem_norm", "parameters": 4 * 8, "flops": 0}
    large = ResNet("imagenet", (3, 4, 6, 3), 64, "bottleneck").build(Spec(1000))
    assert total(layer_table(*abstract(large, (1, 224, 224, 3)))) / 2 == pytest.approx(4.09e9, rel=0.005)


def test_grouped_convolutions_count_one_group():
    """A depthwise convolution sums over its window only."""

    class Depthwise(nn.Module):
        @nn.compact
        def __call__(self, inputs, train=False):
            return nn.Conv(6, (3, 3), feature_group_count=6, use_bias=False, name="depthwise")(inputs)

    rows = layer_table(*abstract(functional(Depthwise(), ()), (1, 5, 5, 6)))
    assert rows == [{"path": "depthwise", "parameters": 3 * 3 * 6, "flops": 2 * (5 * 5 * 6) * 9}]


def test_attention_belongs_to_its_module():
    """Scores and weighted values, 2 x 2 x batch x length^2 x width, stand in the attention's row, not its layers'."""
    config = GPT(depth=1, width=32, heads=4, context=16)
    rows = by_path(layer_table(*abstract(config.build(Spec(11)), (3, 16), jnp.int32)))
    assert rows["block_0/attention"]["flops"] == 2 * (2 * 3 * 16 * 16 * 32)
    assert rows["block_0/attention/query_key_value"]["flops"] == 2 * 3 * 16 * 32 * 96
    # The tied head multiplies outside any layer.
    assert rows[TOP] == {"path": TOP, "parameters": 11 * 32 + 16 * 32, "flops": 2 * 3 * 16 * 32 * 11}


@pytest.mark.parametrize("options", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}])
def test_scanned_and_rematerialised_layers_cost_the_same(options):
    """How layers are compiled changes neither FLOPs of the forward pass nor parameters."""
    plain, varied = (
        layer_table(*abstract(GPT(depth=3, width=16, heads=2, **extra).build(Spec(11)), (2, 8), jnp.int32))
        for extra in ({}, options)
    )
    assert total(plain) == total(varied)
    assert total(plain, "parameters") == total(varied, "parameters")


def test_experts_cost_their_places():
    """Top 2 of any number of experts with capacity 1.25 cost 2.5 MLPs, and as many parameters as there are experts."""
    dense = GPT(depth=1, width=16, heads=2, context=16, activation="swiglu", mlp_dim=32)
    mlp = by_path(layer_table(*abstract(dense.build(Spec(11)), (2, 16), jnp.int32)))["block_0/mlp/up"]
    for experts in (4, 8):
        mixed = dataclasses.replace(dense, experts=experts)
        row = by_path(layer_table(*abstract(mixed.build(Spec(11)), (2, 16), jnp.int32)))["block_0/experts/up"]
        assert row["flops"] == 2.5 * mlp["flops"]
        assert row["parameters"] == experts * mlp["parameters"]


def test_of_a_conditional_the_costliest_branch_counts():
    """One branch multiplies by a matrix, the other twice."""

    class Choice(nn.Module):
        @nn.compact
        def __call__(self, inputs, train=False):
            kernel = self.param("kernel", nn.initializers.ones, (4, 4))
            return jax.lax.cond(inputs[0, 0] > 0, lambda x: x @ kernel, lambda x: x @ kernel @ kernel, inputs)

    rows = layer_table(*abstract(functional(Choice(), ()), (5, 4)))
    assert rows == [{"path": TOP, "parameters": 16, "flops": 2 * (2 * 5 * 4 * 4)}]
