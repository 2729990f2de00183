"""Where training starts, resumes, or goes on after a rollback: the state, and all else that continues with it."""

from functools import partial
from typing import NamedTuple

from research.core import trees
from research.core.files import read_lines
from research.runs import chain, checkpoints
from research.runs.directory import CHAIN, CHECKPOINTS
from research.runs.record import RunLog
from research.runtime import processes
from research.train.experiment import Assembly
from research.train.pretrained import Started
from research.train.recovery import History, read_history
from research.train.state import State


class Start(NamedTuple):
    """A state, the chain value at its step, what decisions after it depend on, and what is still due at its step."""

    state: State
    head: str
    history: History
    unevaluated: bool = False
    """whether a signal came amid the evaluation of this step, which is then still to be done"""


def newest_start(assembly: Assembly, log: RunLog, *, periodic: bool = False) -> Start:
    """Returns the newest good checkpoint's start, else the initial one, with the run's files cut back to it.

    Args:
        assembly: the experiment's pure functions.
        log: the open run.
        periodic: pass over checkpoints that only an interruption left, which an undisturbed run would not have.
    """
    folder = log.folder / CHECKPOINTS
    step = processes.broadcast_from_first(_cut_back(log, periodic) if processes.is_main_process() else None)
    if step is None:
        return Start(assembly.initial_state(partial(_note, log)), chain.START, History())
    abstract = trees.abstract_like(assembly.state, assembly.shardings)
    state, facts = checkpoints.load(folder, step, abstract, verified=True)
    if processes.is_main_process() and _last_chain_value(log) != facts["chain"]:
        message = "the hash chain on disk has lost entries, from which later comparisons will differ"
        log.event(step, message, kind="chain")
    return Start(state, facts["chain"], read_history(facts["history"]), facts.get("unevaluated", False))


def _note(log: RunLog, started: Started) -> None:
    """Puts what a run starts from in its record, and says it."""
    others = {"new": list(started.new), "left": list(started.left)}
    log.record["pretrained"] = {"loaded": len(started.loaded), **others, "sha256": trees.digest(started.params)}
    if processes.is_main_process():
        listed = [f"{len(names)} {name} ({', '.join(names[:4])})" for name, names in others.items() if names]
        print("; ".join([f"{len(started.loaded)} parameters loaded", *listed, "run.json names them all"]))


def _cut_back(log: RunLog, periodic: bool) -> int | None:
    """Cuts a run's files back to the newest good checkpoint, whose step it returns, None for none."""
    folder, passed = log.folder / CHECKPOINTS, list[str]()
    step = checkpoints.newest_good(folder, passed.append, periodic=periodic)
    for text in passed:
        log.event(step or 0, text, kind="checkpoint")
    checkpoints.discard_remains(folder, step or 0)
    log.cut_back(step or 0)
    return step


def _last_chain_value(log: RunLog) -> str | None:
    """Returns the chain value of the last entry on disk."""
    return next((entry["chain"] for entry in reversed(list(read_lines(log.folder / CHAIN)))), None)
