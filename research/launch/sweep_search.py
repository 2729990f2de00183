"""Points of a sweep that Optuna chooses by the results of those before: `--search tpe --draws 20`.

The sampler is the tree-structured Parzen estimator (TPE): its first ten points are random, each later one is likely
under the good results so far and unlikely under the others. Nothing is kept but the run directories. The sampler is
seeded, so that the same command asks for the same points as long as it is told the same results; it reads those of the
runs that have ended, and goes on after them.

References:
    Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; Akiba et al. 2019, Optuna.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from research.core.errors import UserError
from research.core.extras import import_extra
from research.core.terminal import print_message
from research.launch.sweep_jobs import Job, Outcome, Recorded, Session, Space, run_jobs
from research.launch.sweep_points import Interval, Values
from research.launch.sweep_stopping import Curve, read_curve
from research.report.result_tables import scalars
from research.report.sweep_results import is_stopped_early


def check_search(space: Space) -> None:
    """Raises UserError where Optuna is not installed, nothing judges a point, or a value alone is refused."""
    import_extra("optuna", "optuna", "--search tpe")
    space.judge()
    for field, values in space.grid.items():
        alone = dataclasses.replace(space, grid={field: values}, seeds=space.seeds[:1])
        ends = [str(values.low), str(values.high)] if isinstance(values, Interval) else values
        alone.jobs([value] for value in ends)


def search(session: Session, draws: int, seed: int) -> tuple[list[Job], Outcome, int]:
    """Asks for points, one after another, and runs the jobs of each before the next.

    A point without a finished run counts as worse than all that have one: last where its jobs failed, before that by
    its last result where they were stopped early. A point that was there before is told once more.

    Args:
        session: how jobs are run.
        draws: how many points to ask for.
        seed: of the sampler.

    Returns:
        The jobs so far, how running them ended, and how many points are still to be asked for.
    """
    space, optuna = session.space, import_extra("optuna", "optuna", "--search tpe")
    study = new_study(optuna, space.judge()[2], seed)
    distributions = {field: distribution(optuna, values) for field, values in space.grid.items()}
    jobs: list[Job] = []
    ended = Outcome(False, [], [])
    curves: list[Curve] = []
    for left in reversed(range(draws)):
        trial = study.ask(distributions)
        new = jobs_of(space, chosen(space, trial.params))
        outcome = run_jobs(session, new, len(jobs), curves)
        for job, run in zip(new, outcome.found, strict=True):
            if all(job.experiment != each.experiment for each in jobs):
                jobs.append(job)
                ended.found.append(run)
                curves.append(session.curve(run))
        ended.failed.extend(outcome.failed)
        # A job that was refused before it began has no run.
        unknown = [run for run in outcome.found if not session.is_settled(run) and (run or session.report)]
        if session.received or outcome.stopped or unknown:
            return jobs, ended._replace(stopped=outcome.stopped or bool(session.received)), left
        result = mean_result(space, outcome.found)
        for step, value in curve_until_stopped(space, outcome.found).items():
            trial.report(value, step)
        study.tell(trial, result, state=None if result is not None else optuna.trial.TrialState.PRUNED)
    return jobs, ended, 0


def new_study(optuna: Any, direction: str, seed: int) -> Any:
    """Returns a study that prints nothing but warnings, and keeps nothing."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed)
    return optuna.create_study(sampler=sampler, direction="minimize" if direction == "min" else "maximize")


def jobs_of(space: Space, point: tuple[str, ...]) -> list[Job]:
    """Returns the jobs of a point; none, after a message, where its values do not go together."""
    try:
        return space.jobs([point])
    except UserError as error:
        print_message(f"the point {', '.join(point)} is passed over: {error}")
        return []


def distribution(optuna: Any, values: Values) -> Any:
    """Returns what Optuna calls listed values or an interval."""
    if not isinstance(values, Interval):
        return optuna.distributions.CategoricalDistribution(list(values))
    if values.whole:
        return optuna.distributions.IntDistribution(values.low, values.high)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.logarithmic)


def chosen(space: Space, parameters: dict[str, Any]) -> tuple[str, ...]:
    """Returns a point as Optuna chose it."""
    return tuple(
        values.written(parameters[field]) if isinstance(values, Interval) else parameters[field]
        for field, values in space.grid.items()
    )


def mean_result(space: Space, runs: Sequence[Recorded | None]) -> float | None:
    """Returns the mean of what judges a point over its finished runs; None where there is no finite one."""
    split, metric, _ = space.judge()
    finished = [run[1] for run in runs if run is not None and run[1]["status"] == "finished"]
    results = [scalars(record.get("metrics", {}).get(split, {})).get(metric) for record in finished]
    values = [float(value) for value in results if value is not None]
    mean = statistics.fmean(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def curve_until_stopped(space: Space, runs: Sequence[Recorded | None]) -> dict[int, float]:
    """Returns {step: value} of what judges a point, of its first run that was stopped early; nothing without any."""
    stopped = next((run for run in runs if run is not None and is_stopped_early(run[1])), None)
    if stopped is None:
        return {}
    sign = -1 if space.judge()[2] == "max" else 1
    return {step: sign * value for step, value in read_curve(stopped[0], space.judge()).items()}
