"""The jobs of a sweep: a point and a seed make the options of an ordinary run, which is found by its configuration.

`research.launch.sweep` chooses the points. Nothing is kept but the run directories: what has finished is skipped, what
was interrupted is continued by its own `--resume`.
"""

import contextlib
import dataclasses
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from research.core.errors import UserError
from research.core.terminal import printable
from research.launch import launcher
from research.launch.sweep_points import Grid, as_arguments, fields_of
from research.launch.sweep_stopping import OPEN, Curve, MedianRule, mark, read_curve, unmark
from research.report.sweep_results import is_stopped_early
from research.runs.directory import all_runs, readable
from research.runs.resumable import changed_fields
from research.train.evaluation import judged_metric
from research.train.experiment import Experiment

Recorded = tuple[Path, dict[str, Any]]  # a run's folder and its record
CHECK_SECONDS = 1.0  # between two looks at the metrics of a job


class Job(NamedTuple):
    """A point of the grid with a seed: its name, the options that make it, and the configuration they make."""

    values: tuple[str, ...]
    seed: int
    label: str
    arguments: tuple[str, ...]
    experiment: Experiment


@dataclasses.dataclass(frozen=True)
class Space:
    """What a sweep varies: an experiment, the options that hold for every job, the grid, and the seeds."""

    name: str
    config: Experiment
    others: tuple[str, ...]
    base: Experiment
    """the experiment with these options, without the grid"""
    grid: Grid
    seeds: tuple[int, ...]
    root: Path

    def jobs(self, points: Iterable[Sequence[str]]) -> list[Job]:
        """Returns the jobs of points, every one with every seed, parsed by the experiment's own command line."""
        defaults = fields_of(self.base)
        jobs = []
        for values, seed in itertools.product(points, self.seeds):
            point = dict(zip(self.grid, values, strict=True))
            words = (as_arguments(field, value, defaults[field]) for field, value in point.items())
            label = ", ".join([*(f"{field} {value}" for field, value in point.items()), f"seed {seed}"])
            arguments = (*self.others, *itertools.chain(*words), "--seed", str(seed), "--runs", str(self.root))
            jobs.append(Job(tuple(values), seed, label, arguments, parse(self.config, arguments)))
        return jobs

    def command(self, job: Job, *, resume: bool) -> list[str]:
        """Returns the command of a job, without the interpreter."""
        return ["-m", f"experiments.{self.name}", *job.arguments, *(["--resume"] if resume else [])]

    def folders(self) -> list[Path]:
        """Returns the folders of all runs of the experiment, the newest first."""
        return [folder for folder in reversed(all_runs(self.root)) if folder.parent.name == self.name]

    def read_runs(self) -> list[Recorded]:
        """Returns the folders and the records of all runs of the experiment, the newest first."""
        return list(readable(self.folders()))

    def judge(self) -> tuple[str, str, str]:
        """Returns the evaluation that judges a job, its metric, and "min" or "max"; raises UserError without any."""
        found = judged_metric(self.base.evaluators)
        if found is None:
            raise UserError(f"{self.name} has no evaluators, so that no result judges a job: give it one.")
        return found


@dataclasses.dataclass(frozen=True)
class Session:
    """How jobs are run."""

    space: Space
    shown: Console
    """where it is said which job begins"""
    received: Sequence[int]
    """the signals that this program has received so far, which are passed on to the job"""
    total: int
    """how many jobs the sweep has"""
    settled: tuple[str, ...]
    """the statuses of runs that are neither continued nor begun again"""
    stop_bad: bool
    """whether a job is stopped that is worse than the others, by `MedianRule`"""
    report: bool
    """whether nothing is run"""

    def is_settled(self, run: Recorded | None) -> bool:
        """Whether nothing is to be done for a job with this run."""
        if run is None:
            return False
        return run[1]["status"] in self.settled or (self.stop_bad and is_stopped_early(run[1]))

    def curve(self, run: Recorded | None) -> Curve:
        """Returns how good a run was by step, where that may stop a job."""
        return read_curve(run[0], self.space.judge()) if run is not None and self.stop_bad else {}


class Outcome(NamedTuple):
    """How running jobs ended: whether a signal stopped it, the names of the jobs that failed, and each job's run."""

    stopped: bool
    failed: list[str]
    found: list[Recorded | None]


def parse(config: Experiment, arguments: Sequence[str]) -> Experiment:
    """Parses a job's options as its own command does; ends the program with the nearest right name where it would."""
    options = launcher.parse(config, args=arguments)
    if options.resume or options.explanation.asked:
        raise UserError("A sweep continues by itself, and explains nothing: leave out --resume and --explain-*.")
    return options.experiment


def without_equal(jobs: Sequence[Job]) -> list[Job]:
    """Returns the jobs but those whose configuration an earlier one has."""
    return [job for number, job in enumerate(jobs) if all(job.experiment != each.experiment for each in jobs[:number])]


def find_run(job: Job, runs: Iterable[Recorded]) -> Recorded | None:
    """Returns the newest finished run of a job's configuration, else the newest unfinished one; None without any."""
    unfinished = None
    for run in runs:
        if not changed_fields(run[1], job.experiment):
            if is_finished(run):
                return run
            unfinished = unfinished or run
    return unfinished


def is_finished(run: Recorded | None) -> bool:
    """Whether a run there is has finished."""
    return run is not None and run[1]["status"] == "finished"


def run_jobs(session: Session, jobs: Sequence[Job], earlier: int = 0, curves: Sequence[Curve] = ()) -> Outcome:
    """Runs what is not settled, in order.

    A job that fails, as one that diverges does, does not keep the others from running.

    Args:
        session: how jobs are run.
        jobs: those to run.
        earlier: how many of the sweep's jobs came before.
        curves: of those before.
    """
    failed: list[str] = []
    runs = session.space.read_runs()
    found = [find_run(job, runs) for job in jobs]
    own = [session.curve(run) for run in found]
    for place, job in enumerate(jobs):
        found[place] = run = find_run(job, runs)
        if session.report or session.is_settled(run):
            continue
        if session.received:
            return Outcome(True, failed, found)
        others = [*curves, *own[:place], *own[place + 1 :]]
        rule = MedianRule(session.space.judge(), job.experiment.steps, others) if session.stop_bad else None
        title = (f"job {earlier + place + 1} of {session.total}", "bold")
        stopped, code = stop_early(rule, run), 0
        if not stopped:
            what = "begins" if run is None else f"continues {run[0]}"
            session.shown.print(Text.assemble(title, printable(f": {job.label}, {what}")), soft_wrap=True)
            code = run_job(session, job, run, rule)
            runs = session.space.read_runs()
            found[place] = run = find_run(job, runs)
            own[place], stopped = session.curve(run), stop_early(rule, run)
        if stopped:
            session.shown.print(Text.assemble(title, printable(f": {job.label}, {stopped}")), soft_wrap=True)
            found[place] = run = find_run(job, session.space.read_runs())
        elif code:
            failed.append(job.label)
        # A job that ends well without having finished was interrupted, and has saved.
        if session.received or not (code or stopped or session.is_settled(run)):
            return Outcome(True, failed, found)
    return Outcome(False, failed, found)


def stop_early(rule: MedianRule | None, run: Recorded | None) -> str:
    """Tags a run that has not finished, and that the rule stops; returns why, nothing for another one."""
    if rule is None or run is None or run[1]["status"] not in OPEN:
        return ""
    step = rule.broken_by(run[0])
    return rule.sentence(step) if step is not None and mark(run[0]) else ""


def run_job(session: Session, job: Job, found: Recorded | None, rule: MedianRule | None) -> int:
    """Runs a job, or continues its run that is found, until it ends or the rule stops it; returns the exit code."""
    space = session.space
    known = set(space.folders())

    def is_bad() -> bool:
        new = (folder for folder in space.folders() if folder not in known)
        run = find_run(job, list(readable(new, lambda _: None))) or found
        return rule is not None and run is not None and rule.broken_by(run[0]) is not None

    if found is not None and is_stopped_early(found[1]):
        unmark(found[0])
    command = [sys.executable, *space.command(job, resume=found is not None)]
    return run_command(command, session.received, is_bad if rule else None)


def run_command(command: Sequence[str], received: Sequence[int], is_bad: Callable[[], bool] | None = None) -> int:
    """Runs a command, passing on every signal that arrives meanwhile; returns its exit code.

    Args:
        command: the program and its arguments.
        received: the signals that this program has received so far.
        is_bad: asked now and then; where it says so, the command gets SIGTERM.
    """
    sent, next_check = 0, time.monotonic() + CHECK_SECONDS
    # A group of its own: from the terminal, Ctrl-C would reach the command a second time, and a second one kills it.
    with subprocess.Popen(command, process_group=0) as process:
        while process.poll() is None:
            for number in received[sent:]:
                process.send_signal(number)
                sent += 1
            if is_bad is not None and not sent and (began := time.monotonic()) >= next_check:
                if is_bad():
                    process.terminate()
                    sent = 1  # the first signal of the user's would be its second, which kills it before it has saved
                # A long file takes long to read: a twentieth of the time at most.
                next_check = time.monotonic() + max(CHECK_SECONDS, 20 * (time.monotonic() - began))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    return process.returncode
