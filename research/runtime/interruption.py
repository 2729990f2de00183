"""Ctrl-C and SIGTERM: between steps a question that the loop asks, so that it can save; outside the steps the end.

Python's own handlers wait until the main thread leaves a compilation or a step, so a thread of its own hears every
signal at once: the second one ends the program wherever it stands.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research.runtime import processes, supervisor
from research.runtime.jax_internals import is_gc_callback

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 4.0  # seconds in which the main thread may end the program itself

Question = Callable[[], str | None]


@contextlib.contextmanager
def interruption() -> Iterator[Question]:
    """Yields a function that returns the name of the signal received so far, or None; a second one kills.

    On several processes the signal may reach any of them. Each must call the function at the same places; it answers
    the same on all, one call late, so that no step waits for the answer. Outside the main thread, where Python cannot
    handle signals, it never sees one.
    """
    received: list[int] = []

    def hear(number: int) -> None:
        received.append(number)
        if len(received) > 1 and not supervisor.supervised():  # the supervisor kills at the second one itself
            supervisor.show_cursor()
            os._exit(128 + number)

    def mine() -> int:
        return received[0] if received else 0

    number = mine if jax.process_count() == 1 else _highest(mine)
    with _heard(hear, lambda _: None):
        yield lambda: signal.Signals(got).name if (got := number()) else None


@contextlib.contextmanager
def ending_at_once(sentence: str) -> Iterator[None]:
    """Ends the program at a signal, with the sentence and exit code 0: there is nothing to save.

    The main thread gets a KeyboardInterrupt first, so that it may note the interruption; one that is deep in a
    compilation is not waited for. `interruption` inside takes the signals over.
    """

    def end() -> None:
        if processes.first():
            print(sentence, flush=True)
        supervisor.show_cursor()
        os._exit(processes.STOPPED if supervisor.supervised() else 0)

    def hear(_: int) -> None:
        time.sleep(GRACE)
        end()

    def interrupt(frame: FrameType | None) -> None:
        # An exception inside JAX's callback of the garbage collector would only be printed: `hear` ends the program.
        if frame is None or not is_gc_callback(frame.f_code):
            raise KeyboardInterrupt

    with _heard(hear, interrupt):
        try:
            yield
        except KeyboardInterrupt:
            end()


@contextlib.contextmanager
def _heard(hear: Callable[[int], None], handle: Callable[[FrameType | None], None]) -> Iterator[None]:
    """Calls `hear` with the number of each signal in a thread, at once, and `handle` in the main one, when it can.

    `handle` is given the frame that the main thread is in.
    """
    try:
        before = {each: signal.signal(each, lambda _, frame: handle(frame)) for each in SIGNALS}
    except ValueError:  # another thread than the main one
        yield
        return
    heard, bell = os.pipe()
    os.set_blocking(bell, False)
    outer = signal.set_wakeup_fd(bell)

    def listen() -> None:
        while number := os.read(heard, 1):
            if number[0] in SIGNALS:  # all that Python handles are heard here
                hear(number[0])
        os.close(heard)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(outer)
        os.close(bell)


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
