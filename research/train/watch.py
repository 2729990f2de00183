"""What a loop watches: reads each step's metrics one step late, checks them, extends the hash chain, and logs.

Reading late keeps the device busy; whatever must know a step's result at once calls `settle` first.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from research.core.errors import UserError
from research.core.run_directory import CHAIN, CHECKPOINTS, append_lines
from research.train import chain
from research.train.experiment import Assembly
from research.train.loggers import Logger
from research.train.record import RunLog


class Watch:
    """The mutable side of training: the head of the hash chain, the step still unread, and the clocks."""

    def __init__(self, assembly: Assembly, log: RunLog, loggers: Sequence[Logger], *, head: str, step: int):
        self.head = head
        self.step = step
        self._assembly = assembly
        self._log = log
        self._loggers = loggers
        self._unread: tuple[Any, str] | None = None
        self._entries: list[dict[str, Any]] = []
        self._waited = 0.0
        self.restart_clocks()

    def restart_clocks(self) -> None:
        """Starts measuring anew, once the first step is compiled."""
        self._uncounted = self.step  # took the time of its compilation
        self._began = self._window_began = time.perf_counter()
        self._waited = self._window_weight = 0.0
        self._window_steps = 0

    def waited(self, seconds: float) -> None:
        """Counts time that a step waited for its batch."""
        self._waited += seconds

    def paused(self, seconds: float) -> None:
        """Takes time spent on evaluation and the like out of the throughput."""
        self._window_began += seconds
        self._began += seconds

    @property
    def wait_share(self) -> float:
        """The share of the training time in which the step waited for data."""
        return self._waited / max(time.perf_counter() - self._began, 1e-9)

    def stepped(self, step: int, metrics: Any, batch: str) -> None:
        """Takes a step's metrics, still on the device, and its batch's digest; settles the step before."""
        self.settle()
        self.step, self._unread = step, (metrics, batch)

    def settle(self, params: str | None = None) -> None:
        """Reads the metrics of the last step if they are unread; `params` is the digest of the parameters after it.

        Raises:
            UserError: loss or gradient is not finite.
        """
        if self._unread is None:
            return
        (device_metrics, batch), self._unread = self._unread, None
        metrics = chain.host(device_metrics)
        self._check_finite(metrics)
        entry = chain.next_entry(self.head, self.step, batch, metrics, params)
        self.head = entry["chain"]
        self._entries.append(entry)
        if self.step > self._uncounted:
            self._window_steps += 1
            self._window_weight += float(metrics["weight"])
        experiment = self._assembly.experiment
        if self.step == experiment.steps or (experiment.log_every and self.step % experiment.log_every == 0):
            self._log_training({name: float(value) for name, value in metrics.items() if name != "random"})
            self.flush()

    def flush(self) -> None:
        """Writes the chain entries settled so far; a checkpoint needs those up to its step on disk."""
        append_lines(self._log.folder / CHAIN, self._entries)
        self._entries.clear()

    def emit(self, entry: Mapping[str, Any]) -> None:
        """Sends an entry to every logger."""
        for logger in self._loggers:
            logger(entry)

    def _log_training(self, metrics: Mapping[str, float]) -> None:
        experiment, now = self._assembly.experiment, time.perf_counter()
        seconds = max(now - self._window_began, 1e-9)
        self.emit(
            {
                "step": self.step,
                "kind": "train",
                **metrics,
                "learning_rate": self._learning_rate(),
                "rate": self._window_weight / seconds,
                "unit": "tokens" if self._assembly.data.tokenizer else "examples",
                "seconds_left": (experiment.steps - self.step) * seconds / max(self._window_steps, 1),
            }
        )
        self._window_began, self._window_steps, self._window_weight = now, 0, 0.0

    def _learning_rate(self) -> float:
        """The rate of the last step, computed on the host: the device is busy with the next one."""
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return float(self._assembly.experiment.optimizer.peak * self._assembly.schedule(self.step - 1))

    def _check_finite(self, metrics: Mapping[str, np.ndarray]) -> None:
        bad = [name for name in ("loss", "gradient_norm") if not np.isfinite(metrics[name])]
        if bad:
            raise UserError(
                f"The {bad[0].replace('_', ' ')} is {metrics[bad[0]]} at step {self.step}: lower --optimizer.peak or "
                f"set --optimizer.clip 1; the last good checkpoint is kept in {self._log.folder / CHECKPOINTS}."
            )
