"""Runs an experiment over a grid of its fields and over seeds, and compares the points of the grid.

    python -m research.launch.sweep gpt_austen --grid optimizer.learning_rate=1e-3,3e-4 --grid model.depth=2,4 \\
        --seeds 0..2

The name of the experiment comes first; options that are not the sweep's own are the experiment's, and hold for every
job. The jobs, every combination with every seed, run one after another, each as its own command would. What is done is
read from the run directories: the same command again skips what has finished, continues what has not, and ends with the
table and the page `runs/NAME/sweep.html`. For an array launcher such as Slurm's, `--print` prints the commands of the
jobs that have not finished, one a line, and runs nothing:

    python -m research.launch.sweep NAME --grid ... --seeds 0..2 --print > jobs.txt
    sbatch --array=1-$(wc -l < jobs.txt) --wrap 'sed -n "${SLURM_ARRAY_TASK_ID}p" jobs.txt | sh'
    python -m research.launch.sweep NAME --grid ... --seeds 0..2 --report
"""

import contextlib
import dataclasses
import difflib
import importlib
import itertools
import math
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.text import Text

from research.core import command_line, configs
from research.core.errors import UserError
from research.core.renames import OPTIONS
from research.core.terminal import console, printable, say
from research.launch import launcher
from research.launch.discovery import modules
from research.report.sweep_page import PAGE, GridPoint, SeedRun, Sweep, split_tables, terminal_table, write_page
from research.runs.directory import all_runs, read_metrics, readable
from research.runs.resumable import changed_fields, computes
from research.runtime.supervisor import signals
from research.train.experiment import Experiment

MOST_JOBS = 1000
Recorded = tuple[Path, dict[str, Any]]  # a run's folder and its record


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line, but for the options of the experiment."""

    name: tyro.conf.Positional[str]
    """the experiment; its own options may follow, and hold for every job"""
    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE,...: a field of the experiment and the values it takes; several grids are combined"""
    seeds: str = ""
    """such as 0..2 or 0,3,5 (default: the experiment's own seed)"""
    print: bool = False
    """print the commands of the jobs still to do, one a line, and run nothing"""
    report: bool = False
    """compare what has finished, and run nothing"""
    runs: Path = Path("runs")
    """where run directories are"""


class Job(NamedTuple):
    """A point of the grid with a seed: its name, the options that make it, and the configuration they make."""

    values: tuple[str, ...]
    seed: int
    label: str
    arguments: tuple[str, ...]
    experiment: Experiment


def main() -> None:
    """Runs, prints or reports a sweep."""
    options, others = tyro.cli(Options, description=__doc__, return_unknown_args=True)
    grid, jobs = plan(options, others)
    if options.print:
        print_commands(options, jobs)
        return
    shown = console()
    stopped, failed = (False, []) if options.report else run_jobs(shown, options, jobs)
    sweep = collect(options, tuple(grid), jobs)
    for table in split_tables(sweep):
        shown.print(terminal_table(sweep, table))
    say(f"{sweep.progress}.")
    if sweep.runs:
        say(f"page: {write_page(options.runs / options.name / PAGE, sweep)}")
    if stopped:
        say(f"Stopped; the same command continues: {sweep.command}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed ({'; '.join(failed)}): see their messages above; the same "
            "command tries them again."
        )


def plan(options: Options, others: Sequence[str]) -> tuple[dict[str, list[str]], list[Job]]:
    """Returns the values by field and the jobs in order, all of them parsed by the experiment's own command line.

    Raises:
        UserError: no such experiment or field; seeds that are none; two jobs of one configuration.
    """
    if options.name not in modules():
        raise UserError(f"There is no experiment {options.name!r}{_nearest(options.name, modules())}.")
    config = importlib.import_module(f"experiments.{options.name}").CONFIG
    base = parse(config, others)
    known = configs.flatten_config(configs.to_json(base))
    fields = {field: value for field, value in known if field.rpartition(".")[2] != "type"}
    grid = read_grid(options.grid, fields)
    seeds = read_seeds(options.seeds) if options.seeds else [base.seed]
    if (count := len(seeds) * math.prod(map(len, grid.values()))) > MOST_JOBS:
        raise UserError(f"These grids and seeds make {count} jobs, and {MOST_JOBS} are the most: give fewer values.")
    jobs = []
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        swept = [word for field, value in point.items() for word in as_arguments(field, value, fields[field])]
        for seed in seeds:
            label = ", ".join([*(f"{field} {value}" for field, value in point.items()), f"seed {seed}"])
            arguments = (*others, *swept, "--seed", str(seed), "--runs", str(options.runs))
            jobs.append(Job(values, seed, label, arguments, parse(config, arguments)))
    for first, second in itertools.combinations(jobs, 2):
        if first.experiment == second.experiment:
            raise UserError(f"Two jobs are the same ({first.label}; {second.label}): give each value and seed once.")
    return grid, jobs


def parse(config: Experiment, arguments: Sequence[str]) -> Experiment:
    """Parses a job's options as its own command does; ends the program with the nearest right name where it would."""
    options = launcher.parse(config, args=arguments)
    if options.resume or options.explanation.asked:
        raise UserError("A sweep continues by itself, and explains nothing: leave out --resume and --explain-*.")
    return options.experiment


def read_grid(texts: Sequence[str], fields: Mapping[str, Any]) -> dict[str, list[str]]:
    """Reads FIELD=VALUE,VALUE,... texts; raises UserError for a field that the experiment does not have, or twice."""
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        field = name.strip().replace("-", "_")
        if not equals or not all(value.strip() for value in values.split(",")):
            raise UserError(f"--grid {text} gives no values: write it as --grid optimizer.learning_rate=1e-3,3e-4.")
        if field not in fields and (new := OPTIONS.get(f"--{field.replace('_', '-')}")):
            raise UserError(f"The field {field!r} is now called {new.removeprefix('--')!r}: give that instead.")
        if field not in fields:
            raise UserError(f"The experiment has no field {name!r}{_nearest(field, list(fields))}.")
        if not computes(field):
            raise UserError(f"The field {field!r} changes nothing that a run computes: it cannot be swept.")
        if field == "seed" or field in grid:
            raise UserError(f"--grid {field} is given twice: name all its values at once, and seeds with --seeds.")
        grid[field] = [value.strip() for value in values.split(",")]
    return grid


def read_seeds(text: str) -> list[int]:
    """Reads seeds such as "0..2", "0,3,5" or "0..2,7", ends included; raises UserError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\.\.(\d{1,10}))?\s*", part)
        found = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not found:
            raise UserError(f"--seeds {text} is not a list of seeds: write it as 0..2 or 0,3,5.")
        if len(seeds) + found.stop - found.start > MOST_JOBS:
            raise UserError(f"--seeds {text} are more than {MOST_JOBS} seeds: give fewer.")
        seeds.extend(found)
    return seeds


def as_arguments(field: str, value: str, default: Any) -> list[str]:
    """Returns the words that give a field a value: a switch for a truth value, one word for each item of a tuple."""
    if not isinstance(default, bool):
        return [f"--{field}", *value.split()]
    if value.lower() not in ("true", "false"):
        raise UserError(f"The field {field!r} is true or false, not {value!r}.")
    parents, _, last = f".{field}".rpartition(".")
    return [f"--{parents[1:]}{'.' if parents else ''}{'' if value.lower() == 'true' else 'no-'}{last}"]


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0)
    return f": the nearest is {near[0]!r}" if near else ""


def read_runs(options: Options) -> list[Recorded]:
    """Returns the folders and the records of all runs of the experiment, the newest first."""
    folders = [folder for folder in all_runs(options.runs) if folder.parent.name == options.name]
    return list(readable(reversed(folders)))


def find_run(job: Job, runs: Sequence[Recorded]) -> Recorded | None:
    """Returns the newest finished run of a job's configuration, else the newest unfinished one; None without any."""
    same = [run for run in runs if not changed_fields(run[1], job.experiment)]
    return next(filter(is_finished, same), same[0] if same else None)


def is_finished(run: Recorded | None) -> bool:
    """Whether a run there is has finished."""
    return run is not None and run[1]["status"] == "finished"


def command_of(options: Options, job: Job, *, resume: bool) -> list[str]:
    """Returns the command of a job, without the interpreter."""
    return ["-m", f"experiments.{options.name}", *job.arguments, *(["--resume"] if resume else [])]


def print_commands(options: Options, jobs: Sequence[Job]) -> None:
    """Prints the command of every job that has not finished."""
    runs = read_runs(options)
    for job in jobs:
        found = find_run(job, runs)
        if not is_finished(found):
            print("python", shlex.join(command_of(options, job, resume=found is not None)))


def run_jobs(shown: Console, options: Options, jobs: Sequence[Job]) -> tuple[bool, list[str]]:
    """Runs what has not finished, in order; returns whether it was stopped, and the names of the jobs that failed.

    A job that fails, as one that diverges does, does not keep the others from running.
    """
    failed: list[str] = []
    runs = read_runs(options)
    with signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
        for number, job in enumerate(jobs, start=1):
            found = find_run(job, runs)
            if is_finished(found):
                continue
            what = "begins" if found is None else f"continues {found[0]}"
            job_title = (f"job {number} of {len(jobs)}", "bold")
            shown.print(Text.assemble(job_title, printable(f": {job.label}, {what}")), soft_wrap=True)
            code = run_command([sys.executable, *command_of(options, job, resume=found is not None)], received)
            runs = read_runs(options)
            # A job that ends well without having finished was interrupted, and has saved.
            if received or (code == 0 and not is_finished(find_run(job, runs))):
                return True, failed
            if code:
                failed.append(job.label)
    return False, failed


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


def collect(options: Options, fields: tuple[str, ...], jobs: Sequence[Job]) -> Sweep:
    """Gathers the runs of all jobs, by the points of the grid."""
    runs = read_runs(options)
    points: dict[tuple[str, ...], dict[int, SeedRun | None]] = {}
    for job in jobs:
        found = find_run(job, runs)
        run = None if found is None else SeedRun(*found, read_metrics(found[0]))
        points.setdefault(job.values, {})[job.seed] = run
    command = shlex.join(
        ["python", "-m", "research.launch.sweep", *(word for word in sys.argv[1:] if word != "--report")]
    )
    return Sweep(options.name, command, fields, tuple(GridPoint(values, by_seed) for values, by_seed in points.items()))


if __name__ == "__main__":
    command_line.run(main)
