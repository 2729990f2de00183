"""The mesh fits the devices or is refused with sizes that would; shardings follow the rules where the sizes divide."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, PartitionSpec

from research.core.errors import UserError
from research.core.mesh import MeshConfig, batch_sharding, check_batch, replicated, shard

ONE = MeshConfig().build()


def mesh_of(data: int, fsdp: int, tensor: int) -> Mesh:
    """A mesh to plan with: one device stands for all."""
    return MeshConfig(data, fsdp, tensor).build(jax.devices()[:1] * (data * fsdp * tensor))


def test_one_device_needs_no_option():
    """The default mesh takes what is there, and the default axes are not explicit."""
    mesh = MeshConfig().build(jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp"))
    assert replicated(mesh).is_fully_replicated


@given(data=st.integers(-1, 4), fsdp=st.integers(-1, 4), tensor=st.integers(-1, 4), count=st.integers(1, 8))
def test_a_mesh_uses_the_devices_it_says_or_is_refused(data, fsdp, tensor, count):
    """For any sizes: a mesh of positive sizes within the devices, or a sentence with the number of devices."""
    devices = jax.devices()[:1] * count
    try:
        mesh = MeshConfig(data, fsdp, tensor).build(devices)
    except UserError as error:
        assert f"does not fit the {count} devices" in str(error)
        rest = fsdp * tensor
        assert min(fsdp, tensor) < 1 or data < 0 or max(1, data) * rest > count or (data == 0 and count % rest)
    else:
        assert mesh.size <= count
        assert mesh.size == count or data
        assert dict(mesh.shape) == {"data": data or count // (fsdp * tensor), "fsdp": fsdp, "tensor": tensor}


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_does():
    """Devices and micro-batches both count."""
    check_batch(ONE, 12, 4)
    with pytest.raises(UserError, match=r"A batch of 13 is not divisible by 1 .* x 4 .*: --batch-size 12"):
        check_batch(ONE, 13, 4)
    with pytest.raises(UserError, match="--batch-size 1"):
        check_batch(ONE, 0, 1)
    with pytest.raises(UserError, match="give --accumulate 1 or more"):
        check_batch(ONE, 8, 0)


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
    assert shard(mesh_of(1, 2, 2), rules, params)["kernel"].spec == expected


def test_an_empty_specification_replicates():
    """`P()` leaves every axis whole."""
    found = shard(mesh_of(2, 2, 1), [("", PartitionSpec())], {"bias": jax.ShapeDtypeStruct((4,), "float32")})
    assert found["bias"].is_fully_replicated
