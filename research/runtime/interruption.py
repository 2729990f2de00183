"""Ctrl-C and SIGTERM: between steps the loop asks for them, so that it can save; elsewhere they end the program.

Python's own handlers wait until the main thread leaves a compilation or a step, so another thread receives every signal
at once: the second one ends the program wherever it stands. `interruption` is used around the steps, `ending_at_once`
around the whole program.
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
MAIN_THREAD_TIMEOUT_SECONDS = 4.0  # in which the main thread may end the program itself

StopRequested = Callable[[], str | None]
"""returns the name of the signal that asks to stop, None while there is none"""


@contextlib.contextmanager
def interruption() -> Iterator[StopRequested]:
    """Yields a function that returns the name of the signal received so far, or None; a second one kills.

    On several processes the signal may reach any of them. Each must call the function at the same places; it answers
    the same on all, one call late, so that no step waits for the answer. Outside the main thread, where Python cannot
    handle signals, it never sees one.
    """
    received: list[int] = []

    def receive(number: int) -> None:
        received.append(number)
        if len(received) > 1 and not supervisor.supervised():  # the supervisor kills at the second one itself
            supervisor.show_cursor()
            os._exit(128 + number)

    def first_received() -> int:
        return received[0] if received else 0

    number = first_received if jax.process_count() == 1 else _max_over_processes(first_received)
    with _receiving(receive, lambda _: None):
        yield lambda: signal.Signals(got).name if (got := number()) else None


@contextlib.contextmanager
def ending_at_once(sentence: str) -> Iterator[list[Callable[[], None]]]:
    """Ends the program at a signal, with the sentence and exit code 0: there is nothing to save.

    Yields a list, at first empty, of functions to call before that: what was opened meanwhile notes its end.

    The main thread gets a KeyboardInterrupt first, so that it may record the interruption; one that is deep in a
    compilation is not waited for. Inside `interruption` the signals go to that one.
    """

    before_end: list[Callable[[], None]] = []

    def end() -> None:
        for call in before_end:
            with contextlib.suppress(Exception):  # the program ends in any case, wherever the main thread stands
                call()
        if processes.is_main_process():
            with contextlib.suppress(OSError):
                print(sentence, flush=True)
        supervisor.show_cursor()
        os._exit(processes.STOPPED if supervisor.supervised() else 0)

    def receive(_: int) -> None:
        time.sleep(MAIN_THREAD_TIMEOUT_SECONDS)
        end()

    def interrupt(frame: FrameType | None) -> None:
        # An exception inside JAX's callback of the garbage collector would only be printed: `receive` ends the program.
        if frame is None or not is_gc_callback(frame.f_code):
            raise KeyboardInterrupt

    with _receiving(receive, interrupt):
        try:
            yield before_end
        except KeyboardInterrupt:
            end()


@contextlib.contextmanager
def _receiving(receive: Callable[[int], None], handle: Callable[[FrameType | None], None]) -> Iterator[None]:
    """Calls `receive` with the number of each signal in a thread, at once, and `handle` in the main one, when it can.

    `handle` gets the frame that the main thread is in.
    """
    try:
        before = {each: signal.signal(each, lambda _, frame: handle(frame)) for each in SIGNALS}
    except ValueError:  # another thread than the main one
        yield
        return
    # Python writes the number of every signal that it handles to this pipe, whatever the main thread is doing.
    numbers, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    outer = signal.set_wakeup_fd(wakeup)

    def listen() -> None:
        while number := os.read(numbers, 1):
            if number[0] in SIGNALS:
                receive(number[0])
        os.close(numbers)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(outer)
        os.close(wakeup)


def _max_over_processes(own: Callable[[], int]) -> Callable[[], int]:
    """Returns a function that gives the largest number of all processes, as of the call before."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("device",)), PartitionSpec("device"))
    largest = jax.jit(jnp.max, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))
    answers: list[jax.Array] = []

    def ask() -> int:
        numbers = np.full(jax.local_device_count(), own(), np.int32)
        answers.append(largest(jax.make_array_from_process_local_data(sharding, numbers)))
        return int(answers.pop(0)) if len(answers) > 1 else 0

    return ask
