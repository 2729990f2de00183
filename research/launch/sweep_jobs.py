"""The jobs of a sweep: a point and a seed make the options of an ordinary run, which is found by its configuration.

`research.launch.sweep` chooses the points. Nothing is kept but the run directories: what has finished is skipped, what
was interrupted is continued by its own `--resume`.
"""

import contextlib
import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from research.core.errors import UserError
from research.core.terminal import printable
from research.launch import launcher
from research.launch.sweep_points import Grid, as_arguments, fields_of
from research.runs.directory import all_runs, readable
from research.runs.resumable import changed_fields
from research.train.experiment import Experiment

Recorded = tuple[Path, dict[str, Any]]  # a run's folder and its record


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
        jobs, defaults = list[Job](), fields_of(self.base)
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

    def read_runs(self) -> list[Recorded]:
        """Returns the folders and the records of all runs of the experiment, the newest first."""
        folders = [folder for folder in all_runs(self.root) if folder.parent.name == self.name]
        return list(readable(reversed(folders)))


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
    settled: tuple[str, ...] = ("finished",)
    """the statuses of runs that are neither continued nor begun again"""

    def is_settled(self, run: Recorded | None) -> bool:
        """Whether nothing is to be done for a job with this run."""
        return run is not None and run[1]["status"] in self.settled


class Outcome(NamedTuple):
    """How running jobs ended: whether a signal stopped it, and the names of the jobs that failed."""

    stopped: bool
    failed: list[str]


def parse(config: Experiment, arguments: Sequence[str]) -> Experiment:
    """Parses a job's options as its own command does; ends the program with the nearest right name where it would."""
    options = launcher.parse(config, args=arguments)
    if options.resume or options.explanation.asked:
        raise UserError("A sweep continues by itself, and explains nothing: leave out --resume and --explain-*.")
    return options.experiment


def without_equal(jobs: Sequence[Job]) -> list[Job]:
    """Returns the jobs but those whose configuration an earlier one has."""
    return [job for number, job in enumerate(jobs) if all(job.experiment != each.experiment for each in jobs[:number])]


def find_run(job: Job, runs: Sequence[Recorded]) -> Recorded | None:
    """Returns the newest finished run of a job's configuration, else the newest unfinished one; None without any."""
    same = [run for run in runs if not changed_fields(run[1], job.experiment)]
    return next(filter(is_finished, same), same[0] if same else None)


def is_finished(run: Recorded | None) -> bool:
    """Whether a run there is has finished."""
    return run is not None and run[1]["status"] == "finished"


def run_jobs(session: Session, jobs: Sequence[Job], earlier: int = 0) -> Outcome:
    """Runs what is not settled, in order; `earlier` jobs of the sweep came before.

    A job that fails, as one that diverges does, does not keep the others from running.
    """
    space, failed = session.space, list[str]()
    runs = space.read_runs()
    for number, job in enumerate(jobs, start=earlier + 1):
        found = find_run(job, runs)
        if session.is_settled(found):
            continue
        what = "begins" if found is None else f"continues {found[0]}"
        job_title = (f"job {number} of {session.total}", "bold")
        session.shown.print(Text.assemble(job_title, printable(f": {job.label}, {what}")), soft_wrap=True)
        code = run_command([sys.executable, *space.command(job, resume=found is not None)], session.received)
        runs = space.read_runs()
        # A job that ends well without having finished was interrupted, and has saved.
        if session.received or (code == 0 and not session.is_settled(find_run(job, runs))):
            return Outcome(True, failed)
        if code:
            failed.append(job.label)
    return Outcome(False, failed)


def run_command(command: Sequence[str], received: Sequence[int]) -> int:
    """Runs a command, passing on every signal that arrives meanwhile; returns its exit code."""
    passed = 0
    # A group of its own: from the terminal, Ctrl-C would reach the command a second time, and a second one kills it.
    with subprocess.Popen(command, process_group=0) as process:
        while process.poll() is None:
            for number in received[passed:]:
                process.send_signal(number)
                passed += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    return process.returncode
