"""Where training starts, resumes, or goes on after a rollback: the state, and all else that continues with it.

`newest_checkpoint` reads it from a run's newest good checkpoint; `fit` and its rollbacks start from it.
"""

from functools import partial
from typing import NamedTuple

from research.core import trees
from research.core.terminal import say
from research.runs import chain, checkpoints, schema
from research.runs.directory import CHECKPOINTS, read_chain
from research.runs.record import RunLog
from research.runtime import processes
from research.train.experiment import Assembly
from research.train.pretrained import LoadReport
from research.train.recovery import History, read_history
from research.train.state import State, restored


class ResumePoint(NamedTuple):
    """A state, the chain value at its step, what decisions after it depend on, and what is still due at its step."""

    state: State
    head: str
    history: History
    unevaluated: bool = False
    """whether a signal came during the evaluation of this step, which is then still to be done"""


def newest_checkpoint(assembly: Assembly, log: RunLog, *, periodic: bool = False) -> ResumePoint:
    """Returns the newest good checkpoint's state, else the initial one; truncates the run's files after its step.

    Args:
        assembly: the experiment's pure functions.
        log: the open run.
        periodic: pass over checkpoints that only an interruption left, which an uninterrupted run would not have.
    """
    folder = log.folder / CHECKPOINTS
    step = processes.broadcast_from_first(_truncate(log, periodic) if processes.is_main_process() else None)
    if step is None:
        state = assembly.initial_state(partial(_record_loaded, log))
        checkpoints.save_fixed(folder, state.fixed)
        return ResumePoint(state, chain.START, History())
    abstract = trees.abstract_like(assembly.state, assembly.shardings)
    changing, metadata = checkpoints.load(folder, step, abstract.changing, verified=True)
    schema.check(metadata, schema.RESUMABLE, f"{folder}, step {step}")
    state = restored(changing, checkpoints.load_fixed(folder, abstract.fixed))
    if processes.is_main_process() and _last_chain_value(log) != metadata["chain"]:
        message = "the hash chain on disk has lost entries, from which later comparisons will differ"
        log.event(step, message, kind="chain")
    history = read_history(metadata["history"])
    return ResumePoint(state, metadata["chain"], history, metadata.get("unevaluated", False))


def _record_loaded(log: RunLog, report: LoadReport) -> None:
    """Puts what a run starts from in its record, and prints it."""
    others = {"new": list(report.new), "left": list(report.left)}
    log.record["pretrained"] = {"loaded": len(report.loaded), **others, "sha256": trees.digest(report.params)}
    if processes.is_main_process():
        listed = [f"{len(names)} {name} ({', '.join(names[:4])})" for name, names in others.items() if names]
        say("; ".join([f"{len(report.loaded)} parameters loaded", *listed, "run.json names them all"]))
        for remark in report.remarks:
            say(remark)


def _truncate(log: RunLog, periodic: bool) -> int | None:
    """Truncates a run's files after the newest good checkpoint, whose step it returns, None for none."""
    folder, passed = log.folder / CHECKPOINTS, list[str]()
    step = checkpoints.newest_good(folder, passed.append, periodic=periodic)
    for text in passed:
        log.event(step or 0, text, kind="checkpoint")
    checkpoints.discard_remains(folder, step or 0)
    log.truncate(step or 0)
    return step


def _last_chain_value(log: RunLog) -> str | None:
    """Returns the chain value of the last entry on disk."""
    return next((entry["chain"] for entry in reversed(read_chain(log.folder))), None)
