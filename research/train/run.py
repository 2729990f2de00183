"""A whole run: data, assembly, training, final evaluation, record; new or resumed. Used by launcher and notebooks."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.core import configs, trees
from research.core.errors import UserError
from research.core.terminal import print_message, say
from research.data.dataset import Data
from research.models.flops import layer_table
from research.runs import chain
from research.runs.directory import METRICS, RECORD, read_chain, read_metrics, read_record
from research.runs.loggers import Logger, Terminal, check_loggers, last_results, open_loggers
from research.runs.record import (
    RunLog,
    new_id,
    note_resumption,
    now,
    open_new,
    open_on_main_process,
)
from research.runs.resumable import is_longer, open_resumable
from research.runtime import backend, processes
from research.train import exact
from research.train.evaluation import Evaluation, EvaluatorConfig, evaluation_names, judged_metric, plain
from research.train.experiment import Assembly, Experiment, assemble, check
from research.train.loop import Callback, fit
from research.train.pretrained import resolved
from research.train.recorded_run import Run, load_run
from research.train.resume import newest_checkpoint


def train(
    experiment: Experiment,
    *,
    name: str,
    root: Path = Path("runs"),
    resume: bool = False,
    run_id: str | None = None,
    loggers: tuple[Logger, ...] = (),
    callbacks: tuple[Callback, ...] = (),
    stop_after: int | None = None,
    opened: Callable[[RunLog], Any] = lambda log: None,
) -> Run:
    """Runs an experiment to its end, or to an interruption, and leaves a run directory `root/NAME/ID/`.

    Args:
        experiment: what to run.
        name: the experiment's name.
        root: where run directories are.
        resume: continue the newest unfinished run of this name and configuration, exactly, instead of starting one.
        run_id: the ID of the run, by default a new one; a run that has it already is continued, a finished one where
            the experiment has more steps.
        loggers: called with every log entry besides the experiment's own loggers; a notebook plots with one.
        callbacks: called after every step with its number and the state, whose buffers the next step takes over: copy
            what is to stay. One that returns True stops the run, which is saved, as an interruption would.
        stop_after: the step to stop after, as an interruption would.
        opened: called on the main process with the run, by whoever may end the program before the first step.

    Raises:
        UserError: anything in the configuration, the data or the folder that the user can fix.
    """
    experiment = resolved(experiment)
    backend.start(exact.THREADS if experiment.exact else 0)
    check(experiment)  # all that is wrong with the options alone is said before data are read
    check_loggers(experiment.loggers)
    with ExitStack() as on_exit:
        run_id = processes.broadcast_from_first(run_id or new_id())
        has_started = processes.broadcast_from_first((root / name / run_id / RECORD).exists())
        if has_started and processes.broadcast_from_first(_is_done(read_record(root / name / run_id), experiment)):
            known = configs.own_modules(configs.to_json(experiment))
            return load_run(root / name / run_id, trusted=known)  # lost after its end, before its report
        unfinished = None
        if resume or has_started:
            opening = partial(open_resumable, name, experiment, root, run_id if has_started else None)
            unfinished = on_exit.enter_context(closing(open_on_main_process(opening)))
        stages: dict[str, float] = {}
        _announce(f"{name}: preparing the data")
        with _timed(partial(stages.__setitem__, "data")):
            data = configs.built(experiment.data, Data)
        counts = ", ".join(f"{len(rows):,} {split}" for split, rows in data.splits.items())
        _announce(f"data: {data.summary.get('name', 'your own')}, {counts} examples, after {stages['data']:.1f} s")
        with _timed(partial(stages.__setitem__, "assembly")):
            assembly = assemble(experiment, data)
            assembly.check_memory()
            evaluations = _evaluations(assembly)
            model = _model_facts(assembly)
        # What cannot work has failed by now, and has left no run behind.
        if unfinished:
            _check_same_data(unfinished, data.summary)
        facts = {"data": data.summary, "model": model}
        opening = partial(open_new, name, experiment, root, run_id, facts, opened)
        devices = f"{assembly.mesh.size} {jax.devices()[0].device_kind} device{'s' * (assembly.mesh.size > 1)}"
        _announce(f"model: {type(experiment.model).__name__}, {model['parameters']:,} parameters, on {devices}")
        log = unfinished or on_exit.enter_context(closing(open_on_main_process(opening)))
        _announce(f"run: {log.folder}")
        if unfinished:
            opened(log)
        try:
            log.record.update(facts)
            _record_cut_statistics(log, assembly)
            for stage, seconds in stages.items():
                log.spent(stage, seconds)
            log.save()
            return _train(assembly, evaluations, log, loggers, callbacks, stop_after)
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            log.record.update(status=status, error=f"{type(error).__name__}: {error}", finished=now())
            log.try_save()
            raise


def _is_done(record: Mapping[str, Any], experiment: Experiment) -> bool:
    return record["status"] == "finished" and not is_longer(experiment, record)


def _train(
    assembly: Assembly,
    evaluations: Sequence[Evaluation],
    log: RunLog,
    extra: tuple[Logger, ...],
    callbacks: tuple[Callback, ...],
    stop_after: int | None,
) -> Run:
    experiment = assembly.experiment
    if assembly.data.tokenizer is not None and processes.is_main_process():
        assembly.data.tokenizer.save(log.folder / "tokenizer.json")
    resume_point = newest_checkpoint(assembly, log)
    if resume_point.head != chain.START:
        note_resumption(log, int(resume_point.state.step))
        if any(earlier["step"] == resume_point.state.step for earlier in log.record.get("extensions", [])):
            resume_point = resume_point._replace(history=dataclasses.replace(resume_point.history, stale=0))
    else:
        log.record.pop("extensions", None)  # all of the steps are to come
    _announce("compiling the first step")
    judged = judged_metric(assembly.evaluators)
    with Terminal(experiment.steps, int(resume_point.state.step), log.folder, judged) as terminal:
        every: list[Logger] = [lambda entry: log.append(METRICS, [entry]), terminal, *extra]
        if processes.is_main_process():
            every += open_loggers(experiment.loggers, log.folder, log.record["config"])
        state, finished = fit(
            assembly,
            resume_point,
            log,
            evaluators={evaluation.name: evaluation.measure for evaluation in evaluations},
            loggers=every,
            evaluating=terminal.evaluating,
            callbacks=callbacks,
            stop_after=stop_after,
        )
    log.write_lines()
    if not finished:
        log.record.update(status="interrupted", finished=now())
        log.save()
        return Run(log.folder, assembly, state, log.record)
    log.record.update(status="finished", finished=now(), params_sha256=trees.digest(state.merged))
    with _timed(partial(log.spent, "baselines")):
        importance = {each.name: partial(each.importance, state.evaluated) for each in evaluations}
        log.record["importance"] = {name: found for name, found in _by_evaluation(importance, log).items() if found}
        if processes.is_main_process():
            log.record["baselines"] = _by_evaluation({each.name: each.baselines for each in evaluations}, log)
    if processes.is_main_process():
        _finish(log)
    return Run(log.folder, assembly, state, log.record)


def _by_evaluation(measures: Mapping[str, Callable[[], Any]], log: RunLog) -> dict[str, Any]:
    """Returns what is measured once, by evaluation; what fails is an event, as the training is done."""
    found = {}
    for name, measure in measures.items():
        try:
            found[name] = plain(measure())
        except Exception as error:  # anyone's code
            log.failed_evaluation(log.record["config"]["steps"], name, error)
    return found


def _finish(log: RunLog) -> None:
    log.record["metrics"] = last_results(read_metrics(log.folder))
    log.record["chain"] = read_chain(log.folder)[-1]["chain"]
    log.save()


def _evaluations(assembly: Assembly) -> list[Evaluation]:
    """Builds the evaluators; says whose split the data lack, and refuses to go on without any."""
    present = assembly.evaluators
    absent = {evaluator.split for evaluator in assembly.experiment.evaluators} - set(assembly.data.splits)
    if absent and not present:
        raise UserError(
            f"There is no split {min(absent)!r} to evaluate: the data have {', '.join(assembly.data.splits)}; name one "
            "of them with --evaluators.0.split."
        )
    for split in sorted(absent):
        print_message(f"the data have no {split} split, which is not evaluated")
    return built_evaluations(assembly, present)


def built_evaluations(assembly: Assembly, evaluators: Sequence[EvaluatorConfig]) -> list[Evaluation]:
    """Builds evaluators, each under its name; raises UserError where two have the same, or one does not fit."""
    names = evaluation_names(evaluators)
    parts = (assembly.task, assembly.data, assembly.mesh, assembly.experiment.seed)
    built = [configs.built(evaluator, Evaluation, *parts) for evaluator in evaluators]
    return [evaluation._replace(name=name) for name, evaluation in zip(names, built, strict=True)]


def _record_cut_statistics(log: RunLog, assembly: Assembly) -> None:
    """Says so where a batch is cut and normalised by statistics of a part, which then are not those of the batch."""
    parts = exact.CHUNKS if assembly.experiment.exact else assembly.experiment.accumulate
    running = [path for path in trees.flatten(assembly.state.variables) if assembly.model.variables(path)]
    known = any(event["kind"] == "statistics" for event in log.record["events"])
    if parts > 1 and running and not known:
        message = f"each batch is cut into {parts} parts, and normalised by the statistics of a part"
        log.event(0, message, kind="statistics")


def _check_same_data(log: RunLog, summary: Mapping[str, Any]) -> None:
    """Raises UserError where a run would be resumed on other data than it began with."""
    changed = configs.differences(log.record["data"], json.loads(json.dumps(summary)))
    if changed:
        raise UserError(
            f"The data of {log.folder} have changed ({', '.join(list(changed)[:3])}): restore them, or start a new run "
            "without --resume."
        )


def _model_facts(assembly: Assembly) -> dict[str, Any]:
    # Pixels are whole numbers, which a task makes floating ones before a model sees them.
    batch = {
        name: jax.ShapeDtypeStruct(array.shape, jnp.float32 if array.dtype == np.uint8 else array.dtype)
        for name, array in assembly.data.spec.batch.items()
    }
    rows = layer_table(assembly.model, assembly.state.merged, batch)
    return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(assembly.state.merged)), "layers": rows}


def _announce(text: str) -> None:
    """Prints what the run does now, for whoever waits; where the output is closed or full it goes on without."""
    if processes.is_main_process():
        with suppress(OSError):
            say(text)


@contextmanager
def _timed(note: Callable[[float], None]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    note(time.perf_counter() - began)
