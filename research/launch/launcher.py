"""The command line of every experiment: `python -m experiments.NAME [--steps 200 --model.depth 6 ... --resume]`.

An experiment module ends with `launch(CONFIG)`. Options are the fields of its configuration; the run trains, prints
its results beside the baselines, and leaves its report.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from research.core import command_line, configs
from research.core.errors import UserError
from research.core.terminal import console, say
from research.data.tables import TableData
from research.evaluate.results_table import results_table
from research.launch.attention_maps import picture_attention
from research.launch.image_predictions import write_image_predictions
from research.plan.options import Explanation
from research.report.html import write_report
from research.runs.directory import find, read_record
from research.runs.record import new_id
from research.runs.resumable import find_resumable
from research.runtime import processes, supervisor
from research.runtime.interruption import ending_at_once
from research.train.experiment import Experiment
from research.train.pretrained import resolved
from research.train.recorded_run import Run, recorded_experiment
from research.train.run import train

NEWEST = "newest"  # what --resume alone means
INTERRUPTED = (
    "Interrupted with nothing to save: repeat the command, and add --resume to it if the run had begun to train."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of an experiment."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    resume: Annotated[str, tyro.conf.arg(metavar="[RUN]")] = ""
    """continue a run, exactly, with its recorded configuration: the newest that has not finished, or RUN; with more
    --steps than it was to take, a finished one goes on too"""
    runs: Path = Path("runs")
    """where run directories are"""
    group: Annotated[processes.Processes, tyro.conf.arg(name="")] = processes.Processes()
    explanation: Annotated[Explanation, tyro.conf.arg(name="")] = Explanation()


def launch(config: Experiment) -> None:
    """Runs the experiment of the calling module with the options given."""
    module: Any = sys.modules["__main__"]
    name = module.__spec__.name.removeprefix("experiments.") if module.__spec__ else Path(sys.argv[0]).stem
    command_line.run(lambda: _launch(config, name, module.__doc__ or ""))


def parse(config: Experiment, description: str = "", args: Sequence[str] | None = None) -> Options:
    """Parses the command line of an experiment, and checks its values; --resume may stand without a value.

    What is the experiment's own and not given gives way where it cannot be meant: a warm-up that leaves nothing of the
    steps asked for becomes a tenth of them, and names of columns are not looked for in a table of one's own. What is
    given is obeyed or refused.
    """
    args = _with_newest(sys.argv[1:] if args is None else args)
    options = command_line.parse(Options, Options(config), description=description, args=args)
    experiment = options.experiment
    if experiment.schedule.warmup >= experiment.steps and not command_line.is_given("--schedule.warmup", args):
        schedule = dataclasses.replace(experiment.schedule, warmup=experiment.steps // 10)
        experiment = dataclasses.replace(experiment, schedule=schedule)
    if isinstance(experiment.data, TableData) and experiment.data.train != getattr(config.data, "train", ""):
        names = [name for name in ("ignore", "logarithm") if not command_line.is_given(f"--data.{name}", args)]
        none: dict[str, Any] = dict.fromkeys(names, ())
        experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **none))
    return dataclasses.replace(options, experiment=experiment)


def _with_newest(args: Sequence[str]) -> list[str]:
    """Returns arguments in which an option --resume that stands alone has the value NEWEST."""
    words: list[str] = []
    for argument, following in itertools.zip_longest(args, args[1:], fillvalue="--"):
        words += [argument, NEWEST] if argument == "--resume" and following.startswith("--") else [argument]
    return words


def resumed(options: Options, name: str, run_id: str | None, trusted: Sequence[str] = ()) -> Options:
    """Returns the options of a run that goes on: its recorded configuration, on which those of the program are put.

    Args:
        options: those of the program, on top of the experiment's own configuration.
        name: the experiment's name.
        run_id: the ID of the run, where it has been chosen before and may have finished since.
        trusted: the modules outside this project whose classes the experiment's own configuration has.

    Returns:
        The options, `resume` the run's directory.

    Raises:
        UserError: no run can go on so; says why.
    """
    root, asked = options.runs, run_id
    if options.resume != NEWEST:
        folder = find(options.resume, root).absolute()
        root, asked = folder.parent.parent, folder.name
        if folder.parent.name != name:
            other = folder.parent.name
            module = other if "." in other else f"experiments.{other}"
            raise UserError(
                f"{folder} is a run of {other}, not of {name}: resume it with python -m {module} --resume {folder}."
            )

    def wanted(folder: Path, record: Mapping[str, Any]) -> Experiment:
        return resolved(parse(recorded_experiment(record, folder, trusted)).experiment)

    if run_id:
        folder = root / name / run_id
        experiment = wanted(folder, read_record(folder))
    else:
        folder, _, experiment, *_ = find_resumable(name, root, wanted, asked)
    return dataclasses.replace(options, experiment=experiment, runs=root, resume=str(folder))


def _launch(config: Experiment, name: str, description: str) -> None:
    options, assignment = parse(config, description), supervisor.assignment()
    if options.resume:
        own = configs.own_modules(configs.to_json(config))
        options = resumed(options, name, assignment.run_id if assignment else None, own)
    experiment = options.experiment
    is_lowered = experiment.schedule.warmup < config.schedule.warmup and not options.resume
    if is_lowered and not command_line.is_given("--schedule.warmup"):
        lowered = f"from {config.schedule.warmup} to {experiment.schedule.warmup}, a tenth of {experiment.steps}"
        print(f"the warm-up is lowered {lowered} steps; --schedule.warmup gives another", file=sys.stderr)
    if options.explanation.asked:
        options.explanation.show(experiment)
        return
    if assignment is None and (infos := processes.processes_to_start(options.group, os.environ)):
        # Chosen once, so that a restart continues this run whatever has become of it, and no other.
        asked = Path(options.resume).name or new_id()
        sys.exit(supervisor.supervise(infos, asked, options.group.restarts))
    with ending_at_once(INTERRUPTED) as before_end:
        with processes.distributed_session(assignment.info if assignment else processes.ProcessInfo()):
            run_id = assignment.run_id if assignment else Path(options.resume).name or None
            run = train(
                experiment,
                name=name,
                root=options.runs,
                resume=bool(options.resume),
                run_id=run_id,
                opened=lambda log: before_end.append(log.note_sudden_end),
            )
            if run.record["status"] == "finished":
                write_image_predictions(run)
                picture_attention(run)
        if processes.is_main_process():
            _conclude(run, name)


def _conclude(run: Run, name: str) -> None:
    """Prints the results beside the baselines, and writes the report."""
    report = write_report(run.folder)  # first: the output may be closed or full
    if run.record["status"] == "interrupted":
        say(f"Interrupted at step {int(run.state.step)}, saved: add --resume to the command to continue.")
        say(f"report so far: {report}")
        return
    for split, results in run.record["metrics"].items():
        rows = {name: results, **run.record["baselines"].get(split, {})}
        console().print(results_table(f"{split} split", rows))
    say(f"parameters SHA-256: {run.record['params_sha256']}")
    say(f"report: {report}")
