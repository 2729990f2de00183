"""The monitor of a training loop: reads each step's metrics, judges them, extends the hash chain, and logs.

Metrics are read one step late, which keeps the device busy; whatever must know a step's result at once calls
`flush_pending` first. `loop.py` makes one `Monitor` in each session of a run.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from research.core.errors import UserError
from research.core.shapes import Batch
from research.runs import chain
from research.runs.directory import CHAIN
from research.runs.loggers import Logger
from research.runs.record import RunLog
from research.runtime import device_memory
from research.train.experiment import Assembly
from research.train.norms import NORMS, layers_of
from research.train.recovery import SpikeError, TooManySkipsError, median_before_spike
from research.train.resume import ResumePoint
from research.train.stall_detector import SLOW_FACTOR

MAX_WAIT_FRACTION = 0.05  # of the time, in which the steps wait for data; where it is more the record has an event
LONG_SESSION_SECONDS = 20.0  # below which that fraction means little


class Monitor:
    """The mutable side of training: hash chain, history of the losses, the step still pending, and the clocks."""

    def __init__(self, assembly: Assembly, resume_point: ResumePoint, log: RunLog, loggers: Sequence[Logger]):
        self._assembly = assembly
        self._log = log
        self._loggers = loggers
        example = assembly.data.splits["train"][0]
        counted, tokens = np.shape(example.get("mask", 1)), np.shape(example.get("targets", example.get("inputs", 1)))
        self._unit = "tokens" if assembly.data.tokenizer and counted == tokens else "examples"
        self._entries: list[dict[str, Any]] = []
        self._opened = self._recorded = time.perf_counter()
        self._seconds_before = log.record["stages"].get("train", 0.0)  # in earlier sessions of the run
        self.rewind(resume_point)
        self.restart_clocks()

    def rewind(self, point: ResumePoint) -> None:
        """Forgets what came after the step of `point`, from which the next step continues."""
        self.head, self.history, self.step = point.head, point.history, int(point.state.step)
        self._pending: Any = None
        self._entries.clear()

    @property
    def metadata(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the state, for a `ResumePoint`."""
        return {"chain": self.head, "history": dataclasses.asdict(self.history)}

    def restart_clocks(self) -> None:
        """Starts the clocks again, once the first step is compiled."""
        self._uncounted = self.step  # took the time of its compilation
        self._began = self._window_began = time.perf_counter()
        self._waited = self._window_weight = 0.0
        self._window_steps = 0

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """Takes the next batch, and counts the time that the step waits for it."""
        began = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - began
        return batch

    def record_compilation(self, metrics: Any) -> None:
        """Waits for the first step, most of whose time is compilation, and records how long it took."""
        jax.block_until_ready(metrics)
        seconds = round(time.perf_counter() - self._opened, 3)
        self._log.record["stages"]["first_step"] = seconds
        self.emit({"step": self.step, "kind": "compiled", "seconds": seconds})
        self.restart_clocks()

    def paused(self, seconds: float) -> None:
        """Takes time spent on evaluation and the like out of the throughput."""
        self._window_began += seconds
        self._began += seconds
        self._log.spent("paused", seconds)

    @property
    def wait_share(self) -> float:
        """The fraction of the training time in which the steps waited for data."""
        return self._waited / max(time.perf_counter() - self._began, 1e-9)

    def record_step(self, metrics: Any) -> None:
        """Takes the next step's metrics, still on the device; reads those of the step before."""
        try:
            self.flush_pending()
        finally:
            self.step, self._pending = self.step + 1, metrics

    def flush_pending(self, params: str | None = None) -> None:
        """Reads the metrics of the last step if they are pending; `params` is the digest of the parameters after it.

        Raises:
            SpikeError: the metric that decides has a spike; the step is not recorded.
            TooManySkipsError: the step was skipped, as were those before it.
            UserError: the step has no metric that `recovery.best` names.
        """
        if self._pending is None:
            return
        metrics, self._pending = chain.host(self._pending), None
        norms = metrics.pop(NORMS, None)  # watches the step, and is no part of its result
        self._judge(metrics)
        entry = chain.next_entry(self.head, self.step, metrics, params)
        self.head = entry["chain"]
        self._entries.append(entry)
        if self.step > self._uncounted:
            self._window_steps += 1
            self._window_weight += float(metrics["weight"])
        experiment = self._assembly.experiment
        if self.step == experiment.steps or (experiment.log_every and self.step % experiment.log_every == 0):
            self._log_training({name: float(value) for name, value in metrics.items() if name not in chain.PARTS})
            self.write_chain()
        if norms is not None and self.step % experiment.norms_every == 0:
            layers = layers_of(self._assembly.state.params)
            self.emit({"step": self.step, "kind": NORMS, NORMS: dict(zip(layers, norms.tolist(), strict=True))})
        if metrics["skipped"]:
            self._record_skip()

    def record_time(self) -> None:
        """Brings the record's training time and peak memory up to now, and on disk if that is not full."""
        now = time.perf_counter()
        self._log.spent("train", now - self._recorded)
        self._recorded = now
        if peak := device_memory.peak_bytes():
            self._log.record["peak_bytes"] = max(peak, self._log.record.get("peak_bytes", 0))
        self._log.try_save()

    def record_end(self) -> None:
        """Brings the record's training time, and the fraction of it spent waiting for data, up to the end."""
        self.record_time()
        record, waited, before = self._log.record, self.wait_share, self._seconds_before
        seconds = record["stages"]["train"]
        total = record.get("wait_share", 0.0) * before + waited * (seconds - before)
        record["wait_share"] = round(total / seconds, 5)
        if waited > MAX_WAIT_FRACTION and time.perf_counter() - self._opened > LONG_SESSION_SECONDS:
            message = f"the steps waited for data {waited:.0%} of the time, over {MAX_WAIT_FRACTION:.0%}"
            self._log.event(self.step, message, kind="waiting")

    def write_chain(self) -> bool:
        """Writes the chain entries made so far; returns False where they wait until the disk has space for them."""
        entries, self._entries = self._entries, []
        return self._log.append(CHAIN, entries)

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
                **self._learning_rates(),
                "rate": self._window_weight / seconds,
                "unit": self._unit,
                "seconds_left": (experiment.steps - self.step) * seconds / max(self._window_steps, 1),
            }
        )
        self._window_began, self._window_steps, self._window_weight = now, 0, 0.0

    def _learning_rates(self) -> dict[str, float]:
        """The learning rates of the last step, computed on the host: the device is busy with the next one."""
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return {name: float(rate(self.step - 1)) for name, rate in self._assembly.learning_rates.items()}

    def _judge(self, metrics: Mapping[str, Any]) -> None:
        """Extends the history by a step; raises SpikeError where the metric that decides has a spike."""
        recovery = self._assembly.experiment.recovery
        if recovery.best[0] not in metrics:
            known = sorted(name for name in metrics if name not in chain.PARTS)
            raise UserError(
                f"--recovery.best {recovery.best[0]} is no metric of a step: give one of {', '.join(known)}."
            )
        value, skipped = float(metrics[recovery.best[0]]), bool(metrics["skipped"])
        median = None if skipped else median_before_spike(recovery, self.history.recent, value)
        if median is not None:
            raise SpikeError(self.step, recovery.best, value, median)
        self.history = self.history.after(value, skipped=skipped, window=recovery.window)

    @property
    def out_of_patience(self) -> bool:
        """Whether as many evaluations as the experiment bears have brought no better result."""
        return 0 < self._assembly.experiment.patience <= self.history.stale

    def judge_evaluation(self, score: float | None) -> None:
        """Extends the history by an evaluation; records it where it is one too many without a better result."""
        self.history = self.history.evaluated(score)
        if self.out_of_patience:
            message = f"no better result in {self.history.stale} evaluations: training ends here"
            self._log.event(self.step, message, kind="patience")

    def _record_skip(self) -> None:
        """Records a skipped step, near others as one event; raises TooManySkipsError after too many in a row."""
        recovery, count = self._assembly.experiment.recovery, self.history.skipped
        events = self._log.record["events"]
        last: dict[str, Any] = events[-1] if events else {}
        if last.get("kind") != "skip" or self.step > last.get("last", last["step"]) + recovery.window:
            message = "the loss or the gradient is not finite: the step is skipped"
            self._log.event(self.step, message, kind="skip", last=self.step, count=1)
        elif self.step > last.get("last", last["step"]):
            last.update(last=self.step, count=last.get("count", 1) + 1)
            last["message"] = f"{last['count']} steps up to {self.step:,} are skipped: loss or gradient not finite"
            self._log.try_save()
        if count > recovery.skips:
            self.history = dataclasses.replace(self.history, skipped=0)
            raise TooManySkipsError(
                f"The loss or the gradient is not finite in {count} steps in a row, from step {self.step - count + 1} "
                "on: lower --optimizer.learning-rate or set --optimizer.clip 1 in a new run, or add --resume to go on "
                "with the batches after them"
            )

    def slow_step(self, step: int, seconds: float, positions: list[str]) -> None:
        """Records a step that the stall detector found slow, once it has ended, and where the program stood."""
        message = f"the step took {seconds:.1f} s, more than {SLOW_FACTOR} times as long as others"
        self._log.event(step, message, kind="slow", seconds=round(seconds, 1), positions=positions)
