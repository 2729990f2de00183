"""Ctrl-C and SIGTERM as a question the loop asks between steps: a first signal asks it to stop, a second one kills.

On several processes the signal may reach any of them, and all stop after the same step.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research.core import supervisor

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Question = Callable[[], str | None]


@contextlib.contextmanager
def interruption() -> Iterator[Question]:
    """Yields a function that returns the name of the signal received so far, or None.

    On several processes each must call it once a step; it answers the same on all, one call late, so that no step
    waits for the answer. Outside the main thread, where Python cannot handle signals, it never sees one.
    """
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if not supervisor.supervised():  # which kills at the second one itself, and may have passed on this one twice
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)

    try:
        before = {each: signal.signal(each, handle) for each in SIGNALS}
    except ValueError:
        before = {}

    def mine() -> int:
        return received[0] if received else 0

    number = mine if jax.process_count() == 1 else _highest(mine)
    try:
        yield lambda: signal.Signals(got).name if (got := number()) else None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _highest(mine: Callable[[], int]) -> Callable[[], int]:
    """Returns a function that gives the highest number of all processes, as of the call before."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("device",)), PartitionSpec("device"))
    highest = jax.jit(jnp.max, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))
    answers: list[jax.Array] = []

    def ask() -> int:
        numbers = np.full(jax.local_device_count(), mine(), np.int32)
        answers.append(highest(jax.make_array_from_process_local_data(sharding, numbers)))
        return int(answers.pop(0)) if len(answers) > 1 else 0

    return ask
