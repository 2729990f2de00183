"""Ctrl-C and SIGTERM as a question the loop asks between steps: a first signal asks it to stop, a second one kills."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[], str | None]]:
    """Yields a function that returns the name of the signal received so far, or None.

    Outside the main thread, where Python cannot handle signals, it never sees one.
    """
    received: list[str] = []

    def handle(number: int, _: Any) -> None:
        received.append(signal.Signals(number).name)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    try:
        before = {each: signal.signal(each, handle) for each in SIGNALS}
    except ValueError:
        before = {}
    try:
        yield lambda: received[0] if received else None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
