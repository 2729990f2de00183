"""The one training loop: steps, and on their own periods evaluations, samples, checkpoints and log entries.

It knows nothing of models or tasks: new ideas vary the task. Everything it computes is a function of the state, the
seed and the history of the losses, so it may be stopped anywhere and continued from a checkpoint to the same bits.
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import numpy as np

from research.core import trees
from research.core.errors import UserError
from research.core.mesh import local_rows, place
from research.core.shapes import Batch
from research.core.streams import stream
from research.data.pipeline import prefetch, training_batches
from research.runs import chain
from research.runs.checkpoints import Saver
from research.runs.directory import CHECKPOINTS
from research.runs.loggers import Logger
from research.runs.record import RunLog
from research.runtime import processes
from research.runtime.interruption import Question, interruption
from research.train.experiment import Assembly
from research.train.monitor import Watch
from research.train.recovery import SpikeError, TooManySkipsError
from research.train.resume import Start, newest_start
from research.train.stall_detector import Watchdog
from research.train.state import State

# A save that ends within so many seconds is waited for, so that a kill repeats no more than the steps since the one
# before; a larger state is written while training goes on.
PATIENCE = 2.0
WAIT_LIMIT = 0.05  # of the time; more is said, in runs of so many seconds that it matters:
LONG = 20.0

Evaluate = Callable[[Any, Callable[[], None]], Mapping[str, Any]]


class _CutShortError(Exception):
    """A signal came amid an evaluation."""


def fit(
    assembly: Assembly,
    start: Start,
    log: RunLog,
    *,
    evaluators: Mapping[str, Evaluate],
    loggers: Sequence[Logger],
    stop_after: int | None = None,
) -> tuple[State, bool]:
    """Trains to the experiment's last step, or to a signal; returns the state reached, saved, and whether all is done.

    Args:
        assembly: the experiment's pure functions.
        start: where to start; the buffers of its state are given to the first step.
        log: the open run.
        evaluators: functions of the parameters, and of one called before every batch, by name.
        loggers: functions of an entry.
        stop_after: stop after this step as a signal would.

    Raises:
        UserError: too many steps in a row are skipped, or too many spikes met; or the last state cannot be saved.
    """
    experiment, state, stopping, cut = assembly.experiment, start.state, False, False
    last = min(experiment.steps, stop_after or experiment.steps)
    step, watch = assembly.compiled_step(), Watch(assembly, start, log, loggers)
    saver = Saver(
        log.folder / CHECKPOINTS,
        keep_last=experiment.keep_last,
        report=lambda text: log.event(watch.step, text, kind="checkpoint"),
    )
    began = time.perf_counter()
    trained = log.record["stages"].get("train", 0.0)  # in sessions before, in seconds
    batches = _batches(assembly, watch, last)
    interrupted: Question | None = None  # before the first step is done there is nothing to save
    with ExitStack() as listening, Watchdog(watch.slow_step) as watchdog:
        periods = partial(_on_periods, assembly, watch, watchdog, saver, evaluators)
        try:
            if start.unevaluated:
                periods(state, interrupted, stopping=watch.step == last)
            while watch.step < last and not stopping:
                watchdog.begins(watch.step + 1)
                try:
                    state, metrics = step(state, watch.next_batch(batches))
                    watch.stepped(metrics)
                    if interrupted is None:
                        watchdog.ends()
                        watch.compiled(metrics, began)
                        interrupted = listening.enter_context(interruption())
                    stopping = watch.step == last or interrupted() is not None
                    cut = periods(state, interrupted, stopping=stopping)
                    stopping = stopping or cut
                except SpikeError as spike:
                    watchdog.ends()
                    batches.close()
                    state, stopping = _roll_back(assembly, watch, saver, log, spike), False
                    batches = _batches(assembly, watch, last)
        except TooManySkipsError as skips:
            _save_after_skips(state, watch, saver)
            raise UserError(f"{skips}; the parameters before them are kept in {saver.folder}.") from None
        finally:
            batches.close()
            saver.wait()
    watch.note_time()
    seconds, waited = log.record["stages"]["train"], log.record.get("wait_share", 0.0) * trained
    log.record["wait_share"] = round((waited + watch.wait_share * (seconds - trained)) / seconds, 5)
    if watch.wait_share > WAIT_LIMIT and time.perf_counter() - began > LONG:
        message = f"the steps waited for data {watch.wait_share:.0%} of the time, over {WAIT_LIMIT:.0%}"
        log.event(watch.step, message, kind="waiting")
    return state, watch.step == experiment.steps and not cut


def _roll_back(assembly: Assembly, watch: Watch, saver: Saver, log: RunLog, spike: SpikeError) -> State:
    """Returns the newest periodic checkpoint's state; from now on the batches up to the spike's are left out.

    Raises:
        UserError: this has happened as often as the experiment allows.
    """
    began, before = time.perf_counter(), watch.history
    if len(before.rollbacks) >= assembly.experiment.recovery.rollbacks:
        raise UserError(
            f"At step {spike.step} {spike}, after {len(before.rollbacks)} rollbacks: start a new run with a lower "
            "--optimizer.learning-rate or with --optimizer.clip 1; --recovery.spike 0 lets spikes pass."
        )
    saver.wait()
    start = newest_start(assembly, log, periodic=True)
    to = int(start.state.step)
    rollback = before.rollback(spike.step, to)
    history = dataclasses.replace(start.history, rollbacks=(*before.rollbacks, rollback))
    watch.rewind(start._replace(history=history))
    left_out = [before.batch(to), rollback.batch - 1]
    message = f"{spike}; back to step {to}, and on without the batches {left_out[0]} to {left_out[1]}"
    facts: dict[str, Any] = {"kind": "rollback", "to": to, "skipped": left_out}
    if not any(facts.items() <= event.items() for event in log.record["events"]):  # a kill may have it happen again
        log.event(spike.step, message, **facts)
    watch.paused(time.perf_counter() - began)
    return start.state


def _save_after_skips(state: State, watch: Watch, saver: Saver) -> None:
    """Saves a state whose last steps were skipped."""
    with suppress(SpikeError, TooManySkipsError):
        watch.settle()  # the step that was under way when the last one too many was read
    watch.flush()
    saver.save(watch.step, state, {"score": None, "periodic": False, **watch.facts})


def _batches(assembly: Assembly, watch: Watch, last: int) -> Generator[Batch, None, None]:
    """Returns the batches of the steps from the next one to `last`, made ahead."""
    prepare, history = prepare_batches(assembly), watch.history
    return prefetch(lambda step: prepare(history.batch(step)), watch.step, last, ahead=_batches_ahead(assembly))


def prepare_batches(assembly: Assembly) -> Callable[[int], Batch]:
    """Returns the function that makes this process's rows of a step's batch, digests them and puts them in place."""
    experiment, mesh, count = assembly.experiment, assembly.mesh, assembly.experiment.batch_size
    rows = local_rows(mesh, count)
    make = training_batches(assembly.data.splits["train"], batch_size=count, seed=experiment.seed, rows=rows)

    def prepare(step: int) -> Batch:
        batch = make(step)
        return place(mesh, {**batch, chain.ROW_DIGESTS: chain.row_digests(batch, rows.start)}, count, rows)

    return prepare


def _batches_ahead(assembly: Assembly) -> int:
    """Enough batches that tiny steps do not outrun the thread that makes them, and no more than 64 MB of them."""
    example = assembly.data.splits["train"][0]
    size = assembly.experiment.batch_size * sum(array.nbytes for array in example.values())
    return int(np.clip(2**26 // size, 2, 32))


def _on_periods(
    assembly: Assembly,
    watch: Watch,
    watchdog: Watchdog,
    saver: Saver,
    evaluators: Mapping[str, Evaluate],
    state: State,
    interrupted: Question | None,
    *,
    stopping: bool,
) -> bool:
    """Evaluates, samples and saves where their periods, or the end, say so; returns whether a signal cut that short.

    The resumed run then begins with the evaluation.
    """
    experiment, sample, step = assembly.experiment, assembly.task.sample, watch.step
    ended = step == experiment.steps

    def due(every: int) -> bool:
        return every > 0 and (ended or step % every == 0)

    evaluating, periodic = due(experiment.evaluate_every), due(experiment.checkpoint_every)
    sampling = sample is not None and due(experiment.sample_every)
    digesting = due(experiment.digest_every)
    if not (evaluating or sampling or stopping or periodic or digesting):
        return False
    watch.settle(trees.digest(state.params) if digesting else None)
    watchdog.ends()
    began = time.perf_counter()
    results = _evaluate(state, evaluators, interrupted) if evaluating else {}
    stopping = stopping or results is None
    for name, result in (results or {}).items():
        watch.emit({"step": step, "kind": "evaluation", "name": name, **result})
    if sampling and results is not None:
        text = sample(state.evaluated, stream(experiment.seed, "sample", step))
        watch.emit({"step": step, "kind": "sample", "text": text})
    saving = stopping or periodic
    if saving and not processes.agreed(watch.flush()):
        saver.report(f"checkpoint of step {step} failed (the disk is full); training goes on")
    elif saving:
        watch.note_time()
        facts = {"score": _score(results or {}), "periodic": periodic, "unevaluated": results is None}
        saver.save(step, state, {**facts, **watch.facts})
        saver.wait(PATIENCE)
    if stopping:
        saver.wait()
        if processes.agreed(saver.saved) != step:
            raise UserError(
                f"The last checkpoint, of step {step}, could not be written to {saver.folder}: free space there and "
                "add --resume to the command, which continues from the newest one."
            )
    watch.paused(time.perf_counter() - began)
    return results is None


def _evaluate(
    state: State, evaluators: Mapping[str, Evaluate], interrupted: Question | None
) -> dict[str, Mapping[str, Any]] | None:
    """Returns the results of all evaluators, or None where a signal came before the last."""

    def look() -> None:
        if interrupted and interrupted():
            raise _CutShortError

    try:
        return {name: evaluate(state.evaluated, look) for name, evaluate in evaluators.items()}
    except _CutShortError:
        return None


def _score(results: Mapping[str, Mapping[str, Any]]) -> float | None:
    judged = results.get("validation") or next(iter(results.values()), {})
    return judged.get("loss")
