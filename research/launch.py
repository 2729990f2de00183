"""The command line of every experiment: `python -m experiments.NAME [--steps 200 --model.depth 6 ... --resume]`.

An experiment module ends with `launch(CONFIG)`. Options are the fields of its configuration; the run trains, prints
its results beside the baselines, and leaves its report.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from research.core import command_line
from research.evaluate.tables import results_table
from research.report.html import write_report
from research.report.pictures import picture_predictions
from research.train.experiment import Experiment
from research.train.run import train


def launch(config: Experiment) -> None:
    """Runs the experiment of the calling module with the options given."""
    module: Any = sys.modules["__main__"]
    name = module.__spec__.name.rpartition(".")[2] if module.__spec__ else Path(sys.argv[0]).stem
    command_line.run(lambda: _launch(config, name, module.__doc__ or ""))


def _launch(config: Experiment, name: str, description: str) -> None:
    @dataclasses.dataclass(frozen=True)
    class Options:
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = config
        resume: bool = False
        """continue the newest unfinished run of this experiment, exactly"""
        runs: Path = Path("runs")
        """where run directories are"""

    options = command_line.parse(Options, description=description)
    run = train(options.experiment, name=name, root=options.runs, resume=options.resume)
    console = Console()
    if run.record["status"] == "interrupted":
        console.print(f"Interrupted at step {int(run.state.step)}, saved: add --resume to the command to continue.")
        console.print(f"report so far: {write_report(run.folder)}", soft_wrap=True)
        return
    for split, results in run.record["metrics"].items():
        rows = {name: results, **run.record["baselines"][split]}
        console.print(results_table(f"{split} split", rows))
    console.print(f"parameters SHA-256: {run.record['params_sha256']}", soft_wrap=True)
    picture_predictions(run)
    console.print(f"report: {write_report(run.folder)}", soft_wrap=True)
