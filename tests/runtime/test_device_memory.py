"""Memory: what a device has free is known, and what cannot fit is refused before it is made."""

import jax
import pytest

from research.core.errors import UserError
from research.runtime import device_memory


def test_what_is_free_is_a_number_of_bytes():
    """Of this machine: more than this test takes, and no more than a large one has."""
    free = device_memory.free_bytes()
    assert free is None or 1e6 < free < 1e14


def test_devices_of_one_process_share_its_memory(monkeypatch):
    """Eight virtual devices of a CPU have an eighth each; the least of all limits counts."""
    monkeypatch.setattr(device_memory, "_free_for_process", lambda: iter([64_000, 8_000]))
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    assert device_memory.free_bytes() == 1_000
    device_memory.check(1_000, "The state")
    with pytest.raises(UserError, match=r"^The state takes .* GB free: .*--plan-memory"):
        device_memory.check(1_001, "The state")


def test_nothing_is_refused_where_nothing_is_known(monkeypatch):
    """A system that names no limit."""
    monkeypatch.setattr(device_memory, "_free_for_process", lambda: iter([]))
    device_memory.check(10**18, "The state")
