"""The one training loop: steps, and on their own periods evaluations, samples, checkpoints and log entries.

It knows nothing of models or tasks: new ideas vary the task. Everything it computes is a function of the state, the
seed and the history of its metrics, so it may be stopped anywhere: continued from a checkpoint, a run is reproduced bit
for bit. `run.py` calls `fit`.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

import jax
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
from research.runs.sample_files import write_sample
from research.runtime import processes
from research.runtime.interruption import StopRequested, interruption
from research.tasks.task import Context
from research.train.evaluation import plain, score
from research.train.experiment import Assembly, Experiment
from research.train.monitor import Monitor
from research.train.profiling import Profiler, traced_steps
from research.train.recovery import SpikeError, TooManySkipsError
from research.train.resume import ResumePoint, newest_checkpoint
from research.train.stall_detector import StallDetector
from research.train.state import State

# A save that ends within so many seconds is waited for, so that a kill repeats no more than the steps since the one
# before; a larger state is written while training goes on.
SAVE_TIMEOUT_SECONDS = 2.0

Evaluate = Callable[[Any, Callable[[], None]], Mapping[str, Any]]
Callback = Callable[[int, State], Any]


@dataclasses.dataclass
class _Session:
    """What the functions of this file share in one call of `fit`."""

    assembly: Assembly
    log: RunLog
    monitor: Monitor
    saver: Saver
    stall_detector: StallDetector
    evaluators: Mapping[str, Evaluate]
    evaluating: Callable[[str, int], None]
    profiler: Profiler
    on_exit: ExitStack
    stop_requested: StopRequested | None = None
    """None until the first step is done: before there is nothing to save, and a signal ends the program"""


class _EvaluationCutShortError(Exception):
    """A signal came during an evaluation."""


class _Evaluated(NamedTuple):
    """What an evaluation gives the loop: its score, None where there is none, and whether a signal cut it short."""

    score: float | None = None
    cut_short: bool = False


def fit(
    assembly: Assembly,
    resume_point: ResumePoint,
    log: RunLog,
    *,
    evaluators: Mapping[str, Evaluate],
    loggers: Sequence[Logger],
    evaluating: Callable[[str, int], None] = lambda name, batch: None,
    callbacks: Sequence[Callback] = (),
    stop_after: int | None = None,
) -> tuple[State, bool]:
    """Trains to the experiment's last step, or to a signal; returns the state reached, saved, and whether all is done.

    Args:
        assembly: the experiment's pure functions.
        resume_point: where to start; the buffers of its state are given to the first step.
        log: the open run.
        evaluators: functions of the parameters, and of one called before every batch, by name.
        loggers: functions of an entry.
        evaluating: called before each batch of an evaluation, with its name and the number of the batch.
        callbacks: functions of the number of a step and the state after it; one that returns True stops the loop.
        stop_after: stop after this step as a signal would.

    Raises:
        UserError: too many steps in a row are skipped, or too many spikes met; or the last state cannot be saved.
    """
    experiment, state, step = assembly.experiment, resume_point.state, assembly.compiled_step()
    last = min(experiment.steps, stop_after or experiment.steps)
    monitor, cut_short = Monitor(assembly, resume_point, log, loggers), False
    saver = Saver(
        log.folder / CHECKPOINTS,
        keep_last=experiment.keep_last,
        report=lambda text: log.event(monitor.step, text, kind="checkpoint"),
    )
    with ExitStack() as on_exit, StallDetector(monitor.slow_step) as stall_detector:
        profiler = Profiler(
            traced_steps(experiment.profile, experiment.steps), log.folder, is_main=log.lock is not None
        )
        on_exit.callback(profiler.close)
        parts = (monitor, saver, stall_detector, evaluators, evaluating, profiler)
        session = _Session(assembly, log, *parts, on_exit)
        batches = _batches(assembly, monitor, last)
        try:
            if resume_point.unevaluated:
                _on_periods(session, state, stopping=monitor.step == last)
            stopping = monitor.out_of_patience
            while monitor.step < last and not stopping:
                profiler.begins(monitor.step + 1)
                stall_detector.begins(monitor.step + 1)
                try:
                    state, metrics = step(state, monitor.next_batch(batches))
                    stop_requested = _record_step(session, metrics)
                    stopping = True in [callback(monitor.step, state) for callback in callbacks]
                    stopping = stopping or monitor.step == last or stop_requested() is not None
                    cut_short = _on_periods(session, state, stopping=stopping)
                    stopping = stopping or cut_short or monitor.out_of_patience
                except SpikeError as spike:
                    stall_detector.ends()
                    batches.close()
                    state, stopping = _roll_back(session, spike), False
                    batches = _batches(assembly, monitor, last)
        except TooManySkipsError as skips:
            _save_after_skips(session, state)
            raise UserError(f"{skips}; the parameters before them are kept in {saver.folder}.") from None
        finally:
            batches.close()
            saver.wait()
    monitor.record_end()
    return state, (monitor.step == experiment.steps or monitor.out_of_patience) and not cut_short


def _record_step(session: _Session, metrics: Any) -> StopRequested:
    """Records a step, and after the first one its compilation; returns the function that asks for signals."""
    session.monitor.record_step(metrics)
    if written := session.profiler.ends(session.monitor.step, metrics):
        message = f"the profile of the steps is {written}, for ui.perfetto.dev"
        session.log.event(session.monitor.step, message, kind="profile")
    if session.stop_requested is None:
        session.stall_detector.ends()
        session.monitor.record_compilation(metrics)
        session.stop_requested = session.on_exit.enter_context(interruption())
    return session.stop_requested


def _roll_back(session: _Session, spike: SpikeError) -> State:
    """Returns the newest periodic checkpoint's state; from now on the batches up to the spike's are left out.

    Raises:
        UserError: this has happened as often as the experiment allows.
    """
    began, monitor, log, before = time.perf_counter(), session.monitor, session.log, session.monitor.history
    if len(before.rollbacks) >= session.assembly.experiment.recovery.rollbacks:
        raise UserError(
            f"Once more {spike}, after {len(before.rollbacks)} rollbacks: start a new run with a lower "
            "--optimizer.learning-rate or with --optimizer.clip 1; --recovery.spike 0 lets spikes pass."
        )
    session.saver.wait()
    resume_point = newest_checkpoint(session.assembly, log, periodic=True)
    to = int(resume_point.state.step)
    rollback = before.rollback(spike.step, to)
    history = dataclasses.replace(resume_point.history, rollbacks=(*before.rollbacks, rollback))
    monitor.rewind(resume_point._replace(history=history))
    left_out = [before.batch(to), rollback.batch - 1]
    message = f"{spike}; back to step {to}, and on without the batches {left_out[0]} to {left_out[1]}"
    event: dict[str, Any] = {"kind": "rollback", "to": to, "skipped": left_out}
    if not any(event.items() <= other.items() for other in log.record["events"]):  # a kill may have it happen again
        log.event(spike.step, message, **event)
    monitor.paused(time.perf_counter() - began)
    return resume_point.state


def _save_after_skips(session: _Session, state: State) -> None:
    """Saves a state whose last steps were skipped."""
    monitor = session.monitor
    with suppress(SpikeError, TooManySkipsError):
        monitor.flush_pending()  # the step that was under way when the last one too many was read
    monitor.write_chain()
    session.saver.save(monitor.step, state.changing, {"score": None, "periodic": False, **monitor.metadata})


def _batches(assembly: Assembly, monitor: Monitor, last: int) -> Generator[Batch, None, None]:
    """Returns the batches of the steps from the next one to `last`, made ahead."""
    prepare, history = prepare_batches(assembly), monitor.history
    return prefetch(lambda step: prepare(history.batch(step)), monitor.step, last, ahead=_batches_ahead(assembly))


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


class Due(NamedTuple):
    """What there is to do after a step."""

    evaluate: bool
    sample: bool
    checkpoint: bool
    digest: bool


def due(experiment: Experiment, step: int) -> Due:
    """Returns what the experiment's periods ask for after `step`: at the last step all of it; a period of 0 nothing."""

    def is_due(period: int) -> bool:
        return period > 0 and (step == experiment.steps or step % period == 0)

    return Due(
        evaluate=is_due(experiment.evaluate_every),
        sample=is_due(experiment.sample_every),
        checkpoint=is_due(experiment.checkpoint_every),
        digest=is_due(experiment.digest_every),
    )


def _on_periods(session: _Session, state: State, *, stopping: bool) -> bool:
    """Evaluates, samples and saves where that is due, or the loop stops; returns whether a signal cut that short.

    The resumed run then starts with the evaluation.
    """
    monitor, now = session.monitor, due(session.assembly.experiment, session.monitor.step)
    if session.assembly.task.sample is None:
        now = now._replace(sample=False)
    if not (stopping or any(now)):
        return False
    monitor.flush_pending(trees.digest(state.merged) if now.digest else None)
    session.stall_detector.ends()
    began = time.perf_counter()
    evaluated = _evaluate(session, state) if now.evaluate else _Evaluated()
    stopping = stopping or evaluated.cut_short or monitor.out_of_patience
    if now.sample and not evaluated.cut_short:
        _sample(session, session.assembly.task.sample, state)
    if stopping or now.checkpoint:
        _save(session, state, evaluated, periodic=now.checkpoint)
    if stopping:
        _check_saved(session)
    monitor.paused(time.perf_counter() - began)
    return evaluated.cut_short


def _evaluate(session: _Session, state: State) -> _Evaluated:
    """Runs all evaluators, and logs their results unless a signal came before the last.

    One that fails has none, and an event in the record.
    """

    def before_batch(name: str, numbers: Iterator[int]) -> None:
        session.evaluating(name, next(numbers))
        if session.stop_requested and session.stop_requested():
            raise _EvaluationCutShortError

    results = {}
    for name, evaluate in session.evaluators.items():
        try:
            results[name] = plain(evaluate(state.evaluated, partial(before_batch, name, itertools.count(1))))
        except _EvaluationCutShortError:
            return _Evaluated(cut_short=True)
        except Exception as error:  # an evaluator is anyone's code, and its failure no reason to lose the training
            if jax.process_count() > 1:
                raise  # the others wait for this one
            session.log.failed_evaluation(session.monitor.step, name, error)
    for name, result in results.items():
        session.monitor.emit({"step": session.monitor.step, "kind": "evaluation", "name": name, **result})
    evaluated = _Evaluated(score(session.assembly.evaluators, results))
    session.monitor.judge_evaluation(evaluated.score)
    return evaluated


def _sample(session: _Session, sample: Callable[..., Any], state: State) -> None:
    """Logs a sample of the task's."""
    experiment, step = session.assembly.experiment, session.monitor.step
    made = sample(state.evaluated, Context(stream(experiment.seed, "sample", step), step, train=False))
    session.monitor.emit(write_sample(session.log.folder, step, made))


def _save(session: _Session, state: State, evaluated: _Evaluated, *, periodic: bool) -> None:
    """Saves the state, once the hash chain up to it is on disk."""
    monitor, saver = session.monitor, session.saver
    if not processes.broadcast_from_first(monitor.write_chain()):
        saver.failed(monitor.step, f"the lines of {session.log.folder} before it cannot be written; free space there")
        return
    monitor.record_time()
    metadata = {"score": evaluated.score, "periodic": periodic, "unevaluated": evaluated.cut_short}
    saver.save(monitor.step, state.changing, {**metadata, **monitor.metadata})
    saver.wait(SAVE_TIMEOUT_SECONDS)


def _check_saved(session: _Session) -> None:
    """Raises UserError where the state that the loop stops at could not be saved."""
    saver, step = session.saver, session.monitor.step
    saver.wait()
    if processes.broadcast_from_first(saver.saved) != step:
        raise UserError(
            f"The last checkpoint, of step {step}, could not be written to {saver.folder} ({saver.cause}): put that "
            "right and add --resume to the command, which continues from the newest one."
        )
