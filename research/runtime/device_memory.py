"""How much memory a device has free, so that what cannot fit is refused before it is made.

Accelerators say so themselves. A CPU has what the machine, a container and the shell's limits leave to this process;
several virtual devices of one process share it.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from research.core.errors import UserError

CONTAINER = Path("/sys/fs/cgroup")


def check(needed: int, what: str) -> None:
    """Raises UserError where each device is to hold so many bytes and has fewer free.

    Args:
        needed: bytes.
        what: they are of, for the message.
    """
    free = free_bytes()
    if free is not None and needed > free:
        raise UserError(
            f"{what} takes {needed / 1e9:,.1f} GB of each device, which has {free / 1e9:,.1f} GB free: make the model "
            "smaller, or spread it with --mesh.fsdp; --plan-memory shows what a step takes, and of what."
        )


def free_bytes() -> int | None:
    """Returns the bytes that the first device of this process has free, None where nothing says so."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        free = min(_free_for_process(), default=None)
        return None if free is None else free // jax.local_device_count()
    found = device.memory_stats() or {}
    return found["bytes_limit"] - found.get("bytes_in_use", 0) if "bytes_limit" in found else None


def peak_bytes() -> int | None:
    """Returns the most bytes that the first device of this process has used so far; of a CPU, that the process has."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("peak_bytes_in_use")
    import resource  # on Unix alone

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _free_for_process() -> Iterator[int]:
    """Yields what each limit on this process leaves to it, in bytes; systems other than Linux name none."""
    if not sys.platform.startswith("linux"):
        return
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield 1024 * int(value.split()[0])
    most, used = (_number(CONTAINER / f"memory.{name}") for name in ("max", "current"))
    if most is not None and used is not None:
        yield max(most - used, 0)
    import resource  # on Unix alone

    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        yield max(address_space - pages * os.sysconf("SC_PAGE_SIZE"), 0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such limit, or "max"
        return None
