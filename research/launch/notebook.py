"""Training from a notebook or a program of one's own: the run leaves its report, as one from the command line does.

`from research import train` is this function.
"""

import functools
from typing import Any

from research.core.terminal import print_message
from research.report.html import write_report
from research.runtime import processes
from research.train import run as training
from research.train.experiment import Experiment
from research.train.recorded_run import Run


@functools.wraps(training.train)
def train(experiment: Experiment, **options: Any) -> Run:
    """Calls `research.train.run.train`, and writes the report, which fails with a message alone."""
    run = training.train(experiment, **options)
    if processes.is_main_process():
        try:
            write_report(run.folder)
        except Exception as error:  # the trained run is worth more than its page
            print_message(
                f"the report of {run.folder} could not be written ({type(error).__name__}: {error}); "
                f"python -m research.report {run.folder} writes it later"
            )
    return run
