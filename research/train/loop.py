"""The one training loop: steps, and on their own periods evaluations, samples, checkpoints and log entries.

It knows nothing of models or tasks: new ideas vary the task. Everything it computes is a function of the state and
the seed, so it may be stopped anywhere and continued from a checkpoint to the same bits.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from research.core import trees
from research.core.errors import UserError
from research.core.mesh import batch_sharding
from research.core.run_directory import CHECKPOINTS
from research.core.streams import stream
from research.data.pipeline import prefetch, training_batches
from research.train import chain
from research.train.checkpoints import Saver
from research.train.experiment import Assembly
from research.train.interruption import interruption
from research.train.loggers import Logger
from research.train.record import RunLog
from research.train.state import State
from research.train.watch import Watch

# A save that ends within so many seconds is waited for, so that a kill repeats no more than the steps since the one
# before; a larger state is written while training goes on.
PATIENCE = 2.0
WAIT_LIMIT = 0.05  # of the time; more is said, in runs of so many seconds that it matters:
LONG = 20.0

Evaluate = Callable[[Any], Mapping[str, Any]]


def fit(
    assembly: Assembly,
    state: State,
    log: RunLog,
    *,
    head: str,
    evaluators: Mapping[str, Evaluate],
    loggers: Sequence[Logger],
    stop_after: int | None = None,
) -> State:
    """Trains from `state` to the experiment's last step, or to a signal; returns the state reached, which is saved.

    Args:
        assembly: the experiment's pure functions.
        state: where to start; its buffers are given to the first step.
        log: the open run.
        head: the chain value at `state.step`.
        evaluators: functions of the parameters, by name.
        loggers: functions of an entry.
        stop_after: stop after this step as a signal would.

    Raises:
        UserError: the loss is not finite, and the last good checkpoint is kept; or the last state cannot be saved.
    """
    experiment, start = assembly.experiment, int(state.step)
    last = min(experiment.steps, stop_after or experiment.steps)
    step = jax.jit(assembly.step, donate_argnums=0, out_shardings=(assembly.shardings, None))
    watch = Watch(assembly, log, loggers, head=head, step=start)
    saver = Saver(
        log.folder / CHECKPOINTS, keep_last=experiment.keep_last, report=lambda text: log.event(watch.step, text)
    )
    batches = prefetch(_prepare(assembly), start, last, ahead=_batches_ahead(assembly))
    began = time.perf_counter()
    with interruption() as interrupted:
        try:
            for done in range(start + 1, last + 1):
                waiting = time.perf_counter()
                batch, digest = next(batches)
                watch.waited(time.perf_counter() - waiting)
                state, metrics = step(state, batch)
                watch.stepped(done, metrics, digest)
                if done == start + 1:
                    jax.block_until_ready(metrics)
                    seconds = round(time.perf_counter() - began, 3)
                    log.record["stages"]["first_step"] = seconds
                    watch.emit({"step": done, "kind": "compiled", "seconds": seconds})
                    watch.restart_clocks()
                stopping = done == last or interrupted() is not None
                _on_periods(assembly, state, watch, saver, evaluators, stopping=stopping)
                if stopping:
                    break
        finally:
            batches.close()
            saver.wait()
    log.record["wait_share"] = round(watch.wait_share, 5)
    if watch.wait_share > WAIT_LIMIT and time.perf_counter() - began > LONG:
        log.event(watch.step, f"the steps waited for data {watch.wait_share:.0%} of the time, over {WAIT_LIMIT:.0%}")
    return state


def _prepare(assembly: Assembly) -> Callable[[int], tuple[Any, str]]:
    """Returns the function that makes a step's batch, puts it on the devices, and digests it."""
    experiment, sharding = assembly.experiment, batch_sharding(assembly.mesh)
    make = training_batches(assembly.data.splits["train"], batch_size=experiment.batch_size, seed=experiment.seed)

    # On a single CPU there is nowhere to move a batch to, and `device_put` would only take time from tiny steps.
    stays = assembly.mesh.size == 1 and jax.default_backend() == "cpu"

    def prepare(step: int) -> tuple[Any, str]:
        batch = make(step)
        return batch if stays else jax.device_put(batch, sharding), chain.batch_digest(batch)

    return prepare


def _batches_ahead(assembly: Assembly) -> int:
    """Enough batches that tiny steps do not outrun the thread that makes them, and no more than 64 MB of them."""
    example = assembly.data.splits["train"][0]
    size = assembly.experiment.batch_size * sum(array.nbytes for array in example.values())
    return int(np.clip(2**26 // size, 2, 32))


def _on_periods(
    assembly: Assembly,
    state: State,
    watch: Watch,
    saver: Saver,
    evaluators: Mapping[str, Evaluate],
    *,
    stopping: bool,
) -> None:
    """Evaluates, samples and saves where their periods, or the end, say so."""
    experiment, sample, step = assembly.experiment, assembly.task.sample, watch.step
    ended = step == experiment.steps

    def due(every: int) -> bool:
        return every > 0 and (ended or step % every == 0)

    evaluating, saving = due(experiment.evaluate_every), stopping or due(experiment.checkpoint_every)
    sampling = sample is not None and due(experiment.sample_every)
    digesting = due(experiment.digest_every)
    if not (evaluating or sampling or saving or digesting):
        return
    watch.settle(trees.digest(state.params) if digesting else None)
    began = time.perf_counter()
    results = {name: evaluate(state.evaluated) for name, evaluate in evaluators.items()} if evaluating else {}
    for name, result in results.items():
        watch.emit({"step": step, "kind": "evaluation", "name": name, **result})
    if sampling:
        text = sample(state.evaluated, stream(experiment.seed, "sample", step))
        watch.emit({"step": step, "kind": "sample", "text": text})
    if saving:
        watch.flush()
        judged = results.get("validation") or next(iter(results.values()), {})
        saver.save(step, state, {"score": judged.get("loss"), "chain": watch.head})
        saver.wait(PATIENCE)
    if stopping:
        saver.wait()
        if saver.saved != step:
            raise UserError(
                f"The last checkpoint, of step {step}, could not be written to {saver.folder}: free space there and "
                "add --resume to the command, which continues from the newest one."
            )
    watch.paused(time.perf_counter() - began)
