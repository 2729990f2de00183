"""A whole run: data, assembly, training, final evaluation, record; new or resumed. Used by launcher and notebooks."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.core import backend, configs, trees
from research.core.errors import UserError
from research.core.run_directory import CHAIN, CHECKPOINTS, METRICS, read_lines, read_record, truncate_after
from research.models.flops import layer_table
from research.train import chain, checkpoints
from research.train.experiment import Assembly, Experiment, assemble
from research.train.loggers import Logger, Terminal, last_results, open_loggers
from research.train.loop import fit
from research.train.record import RunLog, now, open_new, open_unfinished
from research.train.state import State


class Run(NamedTuple):
    """A finished, interrupted or loaded run: its folder, its functions and data, and its state."""

    folder: Path
    assembly: Assembly
    state: State
    record: Mapping[str, Any]


def train(
    experiment: Experiment,
    *,
    name: str,
    root: Path = Path("runs"),
    resume: bool = False,
    loggers: tuple[Logger, ...] = (),
    stop_after: int | None = None,
) -> Run:
    """Runs an experiment to its end, or to an interruption, and leaves a run directory `root/NAME/ID/`.

    Args:
        experiment: what to run.
        name: the experiment's name.
        root: where run directories are.
        resume: continue the newest unfinished run of this name, exactly, instead of starting one.
        loggers: called with every log entry besides the experiment's own loggers; a notebook plots with one.
        stop_after: the step to stop after, as an interruption would.

    Raises:
        UserError: anything in the configuration, the data or the folder that the user can mend.
    """
    backend.start()
    with ExitStack() as opened:
        unfinished = opened.enter_context(closing(open_unfinished(name, experiment, root))) if resume else None
        stages: dict[str, float] = {}
        with _stage(stages, "data"):
            data = experiment.data.build()
        with _stage(stages, "assembly"):
            assembly = assemble(experiment, data)
            evaluations = _evaluations(assembly)
            model = _model_facts(assembly)
        # What cannot work has failed by now, and has left no run behind.
        if unfinished:
            _check_same_data(unfinished, data.summary)
        log = unfinished or opened.enter_context(closing(open_new(name, experiment, root)))
        log.record.update(data=data.summary, model=model)
        log.record["stages"].update(stages)
        log.save()
        try:
            return _train(assembly, evaluations, log, loggers, stop_after)
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            log.record.update(status=status, error=f"{type(error).__name__}: {error}", finished=now())
            with suppress(UserError):  # on a full disk the record stays as it was
                log.save()
            raise


def _train(
    assembly: Assembly, evaluations: Sequence[Any], log: RunLog, extra: tuple[Logger, ...], stop_after: int | None
) -> Run:
    experiment = assembly.experiment
    if assembly.data.tokenizer is not None:
        assembly.data.tokenizer.save(log.folder / "tokenizer.json")
    state, head = _starting_point(assembly, log)
    start = int(state.step)
    with Terminal(experiment.steps, start) as terminal:
        every: list[Logger] = [*open_loggers(experiment.loggers, log.folder, log.record["config"]), terminal, *extra]
        began = time.perf_counter()
        state = fit(
            assembly,
            state,
            log,
            head=head,
            evaluators={evaluation.name: evaluation.measure for evaluation in evaluations},
            loggers=every,
            stop_after=stop_after,
        )
    log.record["stages"]["train"] = log.record["stages"].get("train", 0.0) + time.perf_counter() - began
    if int(state.step) < experiment.steps:
        log.record.update(status="interrupted", finished=now())
        log.save()
        return Run(log.folder, assembly, state, log.record)
    with _stage(log.record["stages"], "baselines"):
        log.record["baselines"] = {evaluation.name: evaluation.baselines() for evaluation in evaluations}
    _finish(log, state)
    return Run(log.folder, assembly, state, log.record)


def _starting_point(assembly: Assembly, log: RunLog) -> tuple[State, str]:
    """The initial state, or the newest good checkpoint's, with the run's files cut back to it."""
    folder = log.folder / CHECKPOINTS
    step = checkpoints.newest_good(folder, lambda text: log.event(0, text))
    checkpoints.discard_remains(folder, step or 0)
    if step is None:
        for file in (CHAIN, METRICS):
            truncate_after(log.folder / file, 0)
        return assembly.initial_state(), chain.START
    abstract = checkpoints.abstract_like(assembly.state, assembly.shardings)
    state, facts = checkpoints.load(folder, step, abstract)
    for file in (CHAIN, METRICS):
        truncate_after(log.folder / file, step)
    if [entry["chain"] for entry in read_lines(log.folder / CHAIN)][-1:] != [facts["chain"]]:
        log.event(step, "the hash chain on disk has lost entries, from which later comparisons will differ")
    log.record["resumes"].append({"step": step, "time": now()})
    log.save()
    return state, facts["chain"]


def _finish(log: RunLog, state: State) -> None:
    log.record.update(
        status="finished",
        finished=now(),
        metrics=last_results(read_lines(log.folder / METRICS)),
        params_sha256=trees.digest(state.params),
        chain=list(read_lines(log.folder / CHAIN))[-1]["chain"],
    )
    log.save()


def _evaluations(assembly: Assembly) -> list[Any]:
    """Builds the evaluators; says whose split the data lack, and refuses to go on without any."""
    present = assembly.evaluators
    absent = {evaluator.split for evaluator in assembly.experiment.evaluators} - set(assembly.data.splits)
    if absent and not present:
        raise UserError(
            f"There is no split {min(absent)!r} to evaluate: the data have {', '.join(assembly.data.splits)}; name one "
            "of them with --evaluators.0.split."
        )
    for split in sorted(absent):
        print(f"the data have no {split} split, which is not evaluated", file=sys.stderr)
    if len({evaluator.split for evaluator in present}) < len(present):
        raise UserError("Two evaluators have the same split: give each a split of its own.")
    return [evaluator.build(assembly.task, assembly.data) for evaluator in present]


def _check_same_data(log: RunLog, summary: Mapping[str, Any]) -> None:
    """Raises UserError where a run would be resumed on other data than it began with."""
    changed = configs.differences(log.record["data"], json.loads(json.dumps(summary)))
    if changed:
        raise UserError(
            f"The data of {log.folder} have changed ({', '.join(list(changed)[:3])}): restore them, or start a new run "
            "without --resume."
        )


def _model_facts(assembly: Assembly) -> dict[str, Any]:
    kind = jnp.int32 if assembly.data.tokenizer else jnp.float32  # tokens; or what the task makes of pixels, for one
    inputs = jax.ShapeDtypeStruct((1, *assembly.data.splits["train"][0]["inputs"].shape), kind)
    rows = layer_table(assembly.model, assembly.state.params, inputs)
    return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(assembly.state.params)), "layers": rows}


@contextmanager
def _stage(stages: MutableMapping[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    stages[name] = round(time.perf_counter() - began, 3)


def load_run(folder: Path, *, best: bool = False) -> Run:
    """Rebuilds a run from its directory: data, functions, and the state of its newest (or best) good checkpoint.

    Raises:
        UserError: the record names what this project does not have, or no checkpoint is good.
    """
    backend.start()
    record = read_record(folder)
    experiment = configs.from_json(record["config"])
    assembly = assemble(experiment, experiment.data.build())
    kept = folder / CHECKPOINTS
    step = checkpoints.best(kept) if best else None
    if step is None:
        step = checkpoints.newest_good(kept, lambda text: print(text, file=sys.stderr))
    if step is None:
        raise UserError(f"{folder} has no good checkpoint: train it further with --resume, or train again.")
    state, _ = checkpoints.load(kept, step, checkpoints.abstract_like(assembly.state, assembly.shardings))
    return Run(folder, assembly, state, record)
