"""A trace of some steps of a run, for XProf and Perfetto: `--profile 10..15`.

The training loop tells a `Profiler` of each step. The trace stands in the run directory, under `profile/`: open its
`perfetto_trace.json.gz` at ui.perfetto.dev, or the whole folder with `xprof --logdir RUN/profile`.
"""

import re
from pathlib import Path
from typing import Any

import jax

from research.core.errors import UserError

PROFILE = "profile"


def traced_steps(text: str, steps: int) -> tuple[int, int] | None:
    """Returns the first and the last of the steps to trace, None for none.

    Args:
        text: such as "10..15", both ends included, or "10".
        steps: of the run.

    Raises:
        UserError: the text is no range of steps of the run.

    >>> traced_steps("10..15", 100)
    (10, 15)
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= steps:
        raise UserError(f"--profile {text[:50]} is no range of the steps 1 to {steps}: write it as 10..15.")
    return first, last


class Profiler:
    """Traces the steps from a first one to a last one; does nothing where there are none.

    Args:
        traced: both, or None.
        run: the run directory.
        is_main: whether this is the process that writes there.
    """

    def __init__(self, traced: tuple[int, int] | None, run: Path, *, is_main: bool = True):
        self._first, self._last = (traced if is_main else None) or (0, 0)
        self._folder = run / PROFILE
        self._running = False

    def begins(self, step: int) -> None:
        """Starts the trace where `step` is the first."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True

    def ends(self, step: int, metrics: Any) -> Path | None:
        """Ends the trace once the last step is done; returns its file for Perfetto, else None."""
        if not self._running or step < self._last:
            return None
        jax.block_until_ready(metrics)
        self.close()
        return max(self._folder.rglob("perfetto_trace.json.gz"), default=self._folder)

    def close(self) -> None:
        """Ends a trace that has begun, where the run ends before its last step."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
