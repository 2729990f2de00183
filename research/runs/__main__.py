"""`python -m research.runs [ROOT]`: lists the runs under ROOT, newest first, and writes `ROOT/index.html`.

`python -m research.runs note RUN TEXT` adds a note to a run, `python -m research.runs tag RUN NAME` a tag; --remove
takes one away again. RUN is a run directory or the word latest.
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from research.core import command_line
from research.core.errors import UserError
from research.core.ranges import Prose
from research.core.terminal import console, print_message, say
from research.report.runs_index import run_rows, terminal_table, write_index
from research.runs import directory
from research.runs.notes import change_note, change_tag


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of the list."""

    root: tyro.conf.Positional[Path] = Path("runs")
    """where run directories are"""
    tag: Prose = ""
    """only the runs with this tag"""


@dataclasses.dataclass(frozen=True)
class Change:
    """The command line of `note` and `tag`."""

    run: tyro.conf.Positional[str]
    """a run directory, such as runs/gpt_austen/ID, or the word latest"""
    text: tyro.conf.Positional[Prose]
    """the text of the note, or the name of the tag"""
    remove: bool = False
    """take the note of this text, or the tag, away"""


def main() -> None:
    """Lists runs, or changes the notes and tags of one."""
    changes = {"note": change_note, "tag": change_tag}
    if sys.argv[1:2] and sys.argv[1] in changes:
        options = command_line.parse(Change, description=__doc__ or "", args=sys.argv[2:])
        run = directory.find(options.run)
        changes[sys.argv[1]](run, options.text, remove=options.remove)
        say(f"{sys.argv[1]} {'removed from' if options.remove else 'added to'} {run}")
        return
    listed = command_line.parse(Options, description=__doc__ or "")
    rows = run_rows(listed.root, listed.tag)
    if not rows:
        tagged = f" with the tag {listed.tag!r}" if listed.tag else ""
        raise UserError(f"There is no run{tagged} under {listed.root}/: name the folder that has NAME/ID/run.json.")
    console().print(terminal_table(rows))
    for row in rows:
        if row.problem:
            print_message(row.problem)
    say(f"page: {write_index(listed.root, run_rows(listed.root) if listed.tag else rows)}")


if __name__ == "__main__":
    command_line.run(main)
