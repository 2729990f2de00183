"""Points of a sweep that Optuna chooses by the results of those before: `--search tpe --draws 20`.

The sampler is the tree-structured Parzen estimator (TPE): its first ten points are random, each later one is likely
under the good results so far and unlikely under the others. Nothing is kept but the run directories. The sampler is
seeded, so that the same command asks for the same points as long as it is told the same results; it reads those of the
runs that have ended, and goes on after them.

References:
    Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; Akiba et al. 2019, Optuna.
"""

import dataclasses
import importlib
import math
import statistics
from collections.abc import Sequence
from typing import Any

from research.core.errors import UserError
from research.core.terminal import print_message
from research.launch.sweep_jobs import Job, Outcome, Recorded, Session, Space, find_run, run_jobs
from research.launch.sweep_points import Interval, Values
from research.report.result_tables import scalars
from research.train.evaluation import judged_metric


def check_search(space: Space) -> None:
    """Raises UserError where Optuna is not installed, nothing judges a point, or a value alone is refused."""
    optuna_package()
    judged(space)
    for field, values in space.grid.items():
        alone = dataclasses.replace(space, grid={field: values}, seeds=space.seeds[:1])
        ends = [str(values.low), str(values.high)] if isinstance(values, Interval) else values
        alone.jobs([value] for value in ends)


def optuna_package() -> Any:
    """Returns the module `optuna`; raises UserError where it is not installed."""
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise UserError("--search tpe needs Optuna, which is not installed: pip install -e '.[optuna]'.") from None


def search(session: Session, draws: int, seed: int, *, report: bool) -> tuple[list[Job], int, Outcome]:
    """Asks for points, one after another, and runs the jobs of each before the next.

    A point without a finished run, since its jobs failed, counts as worse than all others.

    Args:
        session: how jobs are run.
        draws: how many points to ask for.
        seed: of the sampler.
        report: only read the results there are.

    Returns:
        The jobs so far, the number of those that are not known yet, and how running them ended.
    """
    space, failed = session.space, list[str]()
    optuna, (_, _, direction) = optuna_package(), judged(space)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {field: distribution(optuna, values) for field, values in space.grid.items()}
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed), direction="minimize" if direction == "min" else "maximize"
    )
    jobs: list[Job] = []
    for drawn in range(1, draws + 1):
        trial = study.ask(distributions)
        left, point = (draws - drawn) * len(space.seeds), chosen(space, trial.params)
        try:
            new = space.jobs([point])
        except UserError as error:  # of values that do not go together
            print_message(f"the point {', '.join(point)} is passed over: {error}")
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        if not report:
            outcome = run_jobs(session, new, len(jobs))
            failed += outcome.failed
        jobs += [job for job in new if all(job.experiment != each.experiment for each in jobs)]
        found = [find_run(job, runs) for runs in [space.read_runs()] for job in new]
        # A job that was refused before it began has no run.
        if not all(session.is_settled(run) or (run is None and not report) for run in found):
            return jobs, left, Outcome(not report and outcome.stopped, failed)
        result = mean_result(space, found)
        study.tell(trial, result, state=None if result is not None else optuna.trial.TrialState.PRUNED)
    return jobs, 0, Outcome(False, failed)


def judged(space: Space) -> tuple[str, str, str]:
    """Returns the evaluation that judges a point, its metric, and "min" or "max"; raises UserError without any."""
    found = judged_metric(space.base.evaluators)
    if found is None:
        raise UserError(f"The experiment {space.name!r} has no evaluators, so that no result judges a job: give one.")
    return found


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
    split, metric, _ = judged(space)
    finished = [run[1] for run in runs if run is not None and run[1]["status"] == "finished"]
    results = [scalars(record.get("metrics", {}).get(split, {})).get(metric) for record in finished]
    values = [float(value) for value in results if value is not None]
    mean = statistics.fmean(values) if values else math.nan
    return mean if math.isfinite(mean) else None
