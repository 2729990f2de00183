"""Runs an experiment over a grid of its fields and over seeds, and compares the points of the grid.

    python -m research.launch.sweep gpt_austen --grid optimizer.learning_rate=1e-3,3e-4 --grid model.depth=2,4 \\
        --seeds 0..2
    python -m research.launch.sweep gpt_austen --grid optimizer.learning_rate=1e-4..1e-2 --grid model.depth=2,4,8 \\
        --draws 12

The name of the experiment comes first; options that are not the sweep's own are the experiment's, and hold for every
job. The jobs, every combination with every seed, run one after another, each as its own command would. With `--draws`
the points are drawn at random instead: from listed values, and from ranges, uniformly, of positive numbers a factor 10
apart uniformly in the logarithm. With `--search tpe` as well, Optuna chooses each point by the results of those before
(`research.launch.sweep_search`). `--stop-bad` stops a job that is worse than the median of the others.

What is done is read from the run directories: the same command again skips what has finished, continues what has not,
and ends with the table and the page `runs/NAME/sweep.html`. For an array launcher such as Slurm's, `--print` prints the
commands of the jobs that have not finished, one a line, and runs nothing:

    python -m research.launch.sweep NAME --grid ... --seeds 0..2 --print > jobs.txt
    sbatch --array=1-$(wc -l < jobs.txt) --wrap 'sed -n "${SLURM_ARRAY_TASK_ID}p" jobs.txt | sh'
    python -m research.launch.sweep NAME --grid ... --seeds 0..2 --report
"""

import dataclasses
import importlib
import itertools
import math
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from research.core import command_line, ranges
from research.core.errors import UserError
from research.core.terminal import console, say
from research.launch.discovery import modules
from research.launch.sweep_jobs import (
    Job,
    Recorded,
    Session,
    Space,
    find_run,
    is_finished,
    parse,
    run_jobs,
    without_equal,
)
from research.launch.sweep_points import MOST_JOBS, Interval, draw, nearest, read_grid, read_seeds
from research.launch.sweep_search import check_search, search
from research.report.sweep_page import PAGE, terminal_table, write_page
from research.report.sweep_results import GridPoint, SeedRun, Sweep, split_tables
from research.runs.directory import read_metrics
from research.runtime.supervisor import signals


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line, but for the options of the experiment."""

    name: tyro.conf.Positional[str]
    """the experiment; its own options may follow, and hold for every job"""
    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE,...: a field of the experiment and the values it takes, or with --draws FIELD=LOW..HIGH;
    several grids are combined"""
    draws: ranges.Limit = 0
    """how many points to draw at random from the grids (0: take every combination)"""
    draw_seed: ranges.Seed = 0
    """which points are drawn"""
    search: Literal["random", "tpe"] = "random"
    """how points are drawn: all at random, or one after another by the results before, by Optuna's TPE sampler"""
    seeds: str = ""
    """such as 0..2 or 0,3,5 (default: the experiment's own seed)"""
    stop_bad: bool = False
    """stop a job that at some evaluation is worse than the median of the others', of at least 4, at the same step"""
    print: bool = False
    """print the commands of the jobs still to do, one a line, and run nothing"""
    report: bool = False
    """compare what has finished, and run nothing"""
    runs: Path = Path("runs")
    """where run directories are"""

    def check(self) -> None:
        """Raises UserError for options that do not go together."""
        if self.search == "tpe" and not self.draws:
            raise UserError("--search tpe has no end of its own: say with --draws how many points to draw.")
        if self.search == "tpe" and self.print:
            raise UserError("--print cannot know the points of --search tpe, which depend on results: leave one out.")
        if self.stop_bad and self.print:
            raise UserError("--stop-bad stops jobs that the sweep runs itself, and --print runs none: leave one out.")


def main() -> None:
    """Runs, prints or reports a sweep."""
    options, others = tyro.cli(Options, description=__doc__, return_unknown_args=True)
    space, jobs = plan(ranges.check(options), others)
    if options.print:
        print_commands(space, jobs)
        return
    shown, left, is_search = console(), 0, options.search == "tpe"
    total = options.draws * len(space.seeds) if is_search else len(jobs)
    settled = ("finished", "failed") if is_search else ("finished",)
    with signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
        session = Session(space, shown, received, total, settled, options.stop_bad, options.report)
        if is_search:
            jobs, outcome, left = search(session, options.draws, options.draw_seed)
        else:
            outcome = run_jobs(session, jobs)
    sweep = collect(space, jobs, outcome.found, left * len(space.seeds))
    for table in split_tables(sweep):
        shown.print(terminal_table(sweep, table))
    say(f"{sweep.progress}.")
    if sweep.runs:
        say(f"page: {write_page(options.runs / options.name / PAGE, sweep)}")
    if outcome.stopped:
        say(f"Stopped; the same command continues: {sweep.command}")
    if outcome.failed:
        again = "the same command tries them again"
        if is_search:
            again = "each counts as worse than all others, unless you remove its run directory"
        failed = f"{len(outcome.failed)} of {len(jobs)} jobs failed ({'; '.join(outcome.failed)})"
        raise UserError(f"{failed}: see their messages above; {again}.")


def plan(options: Options, others: Sequence[str]) -> tuple[Space, list[Job]]:
    """Returns what is swept, and the jobs in order, all of them parsed by the experiment's own command line.

    Of a search there are none yet.

    Raises:
        UserError: no such experiment or field; seeds that are none; too many jobs, or two of one configuration; a
            search that cannot be made.
    """
    if options.name not in modules():
        raise UserError(f"There is no experiment {options.name!r}{nearest(options.name, modules())}.")
    config = importlib.import_module(f"experiments.{options.name}").CONFIG
    base = parse(config, others)
    grid = read_grid(options.grid, base)
    seeds = read_seeds(options.seeds) if options.seeds else [base.seed]
    ranged = [field for field, values in grid.items() if isinstance(values, Interval)]
    if ranged and not options.draws:
        raise UserError(f"--grid {ranged[0]} is a range: say with --draws how many points to draw, or list its values.")
    if options.draws and not grid:
        raise UserError("--draws draws from grids: give one, such as --grid optimizer.learning_rate=1e-4..1e-2.")
    listed = [values for values in grid.values() if not isinstance(values, Interval)]
    if (count := len(seeds) * (options.draws or math.prod(map(len, listed)))) > MOST_JOBS:
        raise UserError(f"These grids and seeds make {count} jobs, and {MOST_JOBS} are the most: give fewer values.")
    space = Space(options.name, config, tuple(others), base, grid, tuple(seeds), options.runs)
    if options.stop_bad:
        space.judge()
        if not base.evaluate_every:
            raise UserError("--stop-bad compares evaluations during training: say with --evaluate-every when they are.")
    if not options.draws:
        return space, all_different(space.jobs(itertools.product(*listed)))
    if options.search == "tpe":
        check_search(space)
        return space, []
    return space, without_equal(space.jobs(dict.fromkeys(draw(grid, options.draws, options.draw_seed))))


def all_different(jobs: list[Job]) -> list[Job]:
    """Returns the jobs; raises UserError where two have the same configuration."""
    for first, second in itertools.combinations(jobs, 2):
        if first.experiment == second.experiment:
            raise UserError(f"Two jobs are the same ({first.label}; {second.label}): give each value and seed once.")
    return jobs


def print_commands(space: Space, jobs: Sequence[Job]) -> None:
    """Prints the command of every job that has not finished."""
    runs = space.read_runs()
    for job in jobs:
        found = find_run(job, runs)
        if not is_finished(found):
            print("python", shlex.join(space.command(job, resume=found is not None)))


def collect(space: Space, jobs: Sequence[Job], found: Sequence[Recorded | None], undrawn: int) -> Sweep:
    """Gathers the runs of all jobs, by the points of the grid; `undrawn` more jobs are not known yet."""
    points: dict[tuple[str, ...], dict[int, SeedRun | None]] = {}
    for job, run in zip(jobs, found, strict=True):
        seed_run = None if run is None else SeedRun(*run, read_metrics(run[0]))
        points.setdefault(job.values, {})[job.seed] = seed_run
    command = shlex.join(
        ["python", "-m", "research.launch.sweep", *(word for word in sys.argv[1:] if word != "--report")]
    )
    grid_points = tuple(GridPoint(values, by_seed) for values, by_seed in points.items())
    return Sweep(space.name, command, tuple(space.grid), grid_points, undrawn)


if __name__ == "__main__":
    command_line.run(main)
