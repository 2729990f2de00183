"""The mesh fits the devices or is refused with sizes that would; shardings follow the rules where the sizes divide."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, PartitionSpec

from research.core.errors import UserError
from research.core.mesh import (
    AXES,
    BATCH_AXES,
    MeshConfig,
    axis_size,
    batch_sharding,
    check_batch,
    constrain,
    on_mesh,
    replicated,
    shard,
)

ONE = MeshConfig().build()


def mesh_of(**sizes: int) -> Mesh:
    """A mesh to plan with: one device stands for all."""
    config = MeshConfig(**{"data": 1, **sizes})
    return config.build(jax.devices()[:1] * math.prod(dataclasses.astuple(config)))


def test_one_device_needs_no_option():
    """The default mesh takes what is there, and the default axes are not explicit."""
    mesh = MeshConfig().build(jax.devices()[:1])
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1)
    assert mesh.axis_types == (AxisType.Auto,) * len(AXES)
    assert batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp", "expert"))
    assert replicated(mesh).is_fully_replicated


@given(sizes=st.tuples(*[st.integers(-1, 4)] * len(AXES)), count=st.integers(1, 12))
def test_a_mesh_uses_the_devices_it_says_or_is_refused_with_one_that_would(sizes, count):
    """For any sizes: a mesh of positive sizes within the devices, or a sentence whose sizes use every device."""
    data, *others = sizes
    rest = math.prod(others)
    try:
        mesh = MeshConfig(*sizes).build(jax.devices()[:1] * count)
    except UserError as error:
        assert min(others) < 1 or data < 0 or max(1, data) * rest > count or (data == 0 and count % rest)
        assert f"does not fit the {count} device{'s' * (count != 1)} here" in str(error)
        nearest = dict(re.findall(r"--mesh\.(\w+) (\d+)", str(error)))
        assert MeshConfig(**{name: int(size) for name, size in nearest.items()}).build(jax.devices()[:1] * count)
        assert math.prod(map(int, nearest.values())) == count
    else:
        assert mesh.size <= count and (mesh.size == count or data)
        assert tuple(mesh.shape.values()) == (data or count // rest, *others)


@pytest.mark.parametrize(
    ("sizes", "count", "nearest"),
    [
        ({"fsdp": 3}, 8, "--mesh.fsdp 8"),  # the only axis asked for takes all
        ({"data": 3, "tensor": 3}, 8, "--mesh.data 2 --mesh.tensor 4"),
        ({"data": 7, "fsdp": 2}, 8, "--mesh.data 4 --mesh.fsdp 2"),
    ],
)
def test_the_nearest_sizes_are_near(sizes, count, nearest):
    """The sizes offered are of the axes asked for, and no further from what was asked than they must be."""
    with pytest.raises(UserError, match=f"the nearest that does: {nearest}\\.$"):
        MeshConfig(**sizes).build(jax.devices()[:1] * count)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_does():
    """Devices and micro-batches both count."""
    check_batch(ONE, 12, 4)
    with pytest.raises(UserError, match=r"A batch of 13 is not divisible by 1 .* x 4 .*: --batch-size 12"):
        check_batch(ONE, 13, 4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 6), PartitionSpec("fsdp", "tensor")),
        ((3, 8, 6), PartitionSpec(None, "fsdp", "tensor")),  # stacked layers
        ((7, 6), PartitionSpec(None, "tensor")),  # 7 rows do not divide by 2
    ],
)
def test_a_specification_counts_from_the_last_axis_and_skips_what_does_not_divide(shape, expected):
    """Scanned layers follow the rules of unrolled ones."""
    rules = [("kernel$", PartitionSpec("fsdp", "tensor"))]
    params = {"kernel": jax.ShapeDtypeStruct(shape, "float32")}
    assert shard(mesh_of(fsdp=2, tensor=2), rules, params)["kernel"].spec == expected


def test_an_empty_specification_replicates():
    """`P()` leaves every axis whole."""
    found = shard(mesh_of(data=2, fsdp=2), [("", PartitionSpec())], {"bias": jax.ShapeDtypeStruct((4,), "float32")})
    assert found["bias"].is_fully_replicated


def test_outside_a_mesh_an_activation_is_left_alone():
    """On one device, and in functions traced outside a mesh, `constrain` gives the very array and axes have size 1."""
    x = jnp.ones((4, 6))
    assert constrain(x, "data", "tensor") is x
    assert on_mesh(ONE, constrain) is constrain
    assert axis_size("tensor") == 1


def test_on_a_mesh_activations_are_split_where_their_sizes_divide():
    """The traced program says where an activation lives; an axis that the mesh does not divide stays whole."""
    mesh = mesh_of(fsdp=2, expert=2, tensor=4)

    def function(x):
        assert axis_size("tensor") == 4
        return constrain(x, BATCH_AXES, "context", "tensor")

    for shape, expected in (
        ((8, 3, 8), PartitionSpec(BATCH_AXES, "context", "tensor")),
        ((6, 3, 9), PartitionSpec(None, "context", None)),
    ):
        program = jax.make_jaxpr(on_mesh(mesh, function))(jnp.zeros(shape))
        (equation,) = program.eqns
        assert equation.params["sharding"].spec == expected
    assert axis_size("tensor") == 1
