"""Paths of pytrees, rules that match exactly once, and digests that see every bit."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.core.trees import digest, flatten, map_with_path, match_rules

TREE = {"block_0": {"kernel": 1, "bias": 2}, "head": {"kernel": 3}}


def test_paths_name_the_way_to_each_leaf():
    """Dictionaries, tuples and named tuples all give slash-separated paths."""
    assert flatten(TREE) == {"block_0/bias": 2, "block_0/kernel": 1, "head/kernel": 3}
    assert list(flatten({"moments": (1, {"mu": 2})})) == ["moments/0", "moments/1/mu"]
    assert map_with_path(lambda path, leaf: f"{path}={leaf}", TREE)["head"]["kernel"] == "head/kernel=3"


def test_each_parameter_gets_the_value_of_its_one_rule():
    """The result has the structure of the tree."""
    found = match_rules([(r"kernel$", "matrix"), (r"bias$", None)], TREE, what="test")
    assert found == {"block_0": {"kernel": "matrix", "bias": None}, "head": {"kernel": "matrix"}}


def test_a_parameter_that_no_rule_matches_is_refused():
    """The message names the parameter and what the rules are for."""
    with pytest.raises(UserError, match=r"'block_0/bias' is matched by no rule for weight decay"):
        match_rules([(r"kernel$", 1)], TREE, what="weight decay")


def test_a_parameter_that_two_rules_match_is_refused():
    """The message names both patterns, even if they agree."""
    with pytest.raises(UserError, match=r"'head/kernel' is matched by the rules 'kernel\$', '\^head'"):
        match_rules([(r"kernel$", 1), (r"^head", 1), (r"bias$", 1)], TREE, what="sharding")


@given(
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=6),
    place=st.integers(0, 2**16),
    bit=st.integers(0, 31),
)
def test_any_flipped_bit_changes_the_digest(values, place, bit):
    """Equal trees have equal digests; one bit of one leaf makes another."""
    array = np.array(values, np.float32)
    flipped = array.view(np.uint32).copy()
    flipped[place % array.size] ^= np.uint32(1 << bit)
    tree = {"a": {"kernel": array}, "b": np.zeros(2)}
    assert digest(tree) == digest({"b": np.zeros(2), "a": {"kernel": array.copy()}})
    assert digest(tree) != digest({**tree, "a": {"kernel": flipped.view(np.float32)}})


@pytest.mark.parametrize(
    "other",
    [
        {"b": np.zeros(4, np.float32)},  # another path
        {"a": np.zeros(4, np.int32)},  # another type, the same bytes
        {"a": np.zeros((2, 2), np.float32)},  # another shape, the same bytes
        {"a": np.zeros(4, np.float32), "b": np.zeros(0, np.float32)},  # a leaf more, no byte more
    ],
)
def test_paths_types_and_shapes_are_part_of_the_digest(other):
    """Trees of the same bytes differ where anything else does."""
    assert digest(other) != digest({"a": np.zeros(4, np.float32)})


def test_device_and_host_arrays_have_one_digest():
    """The digest is of values, wherever and in whatever memory order they are; bfloat16 included."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert digest({"a": jnp.asarray(array)}) == digest({"a": np.asfortranarray(array)})
    assert digest({"a": jnp.ones(2, jnp.bfloat16)}) != digest({"a": jnp.ones(2, jnp.float16)})
