"""`python -m research.report RUN`: writes the run's `report.html` and `MODEL_CARD.md`; RUN is a folder or `latest`."""

import dataclasses

import tyro

from research.core import command_line
from research.core.terminal import say
from research.report.html import write_report
from research.runs import directory


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    run: tyro.conf.Positional[str]
    """a run directory, such as runs/gpt_austen/ID, or the word latest"""


def main() -> None:
    """Writes the report and prints where it is."""
    options = command_line.parse(Options, description=__doc__ or "")
    say(f"report: {write_report(directory.find(options.run))}")


if __name__ == "__main__":
    command_line.run(main)
