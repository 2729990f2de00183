"""What a terminal is told: text as it is, whatever is in a name, and no end of a program over an output that is gone.

Names of files, classes and runs, and texts that models write, may hold control characters, which change what a
terminal shows, and square brackets, which Rich takes for styles. `printable` makes the first visible; `console` prints
strings as they are. `print_message` is for standard error; `command_line.run` prepares the streams of every program.
"""

import re
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.text import Text

# Control characters but for the line feed and the tab; marks that turn the direction of what follows.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    r"""Returns a text with its control characters as Python escapes them.

    >>> print(printable("a\x1b[31mred"))
    a\x1b[31mred
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def one_line(text: object) -> str:
    """Returns `printable` text in which line feeds and tabs are escaped too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: object) -> None:
    """Prints a text to standard output, its control characters visible."""
    print(printable(text), flush=True)


def print_message(text: object) -> None:
    """Prints a message to standard error, in one line; where that cannot be written the program goes on without."""
    with suppress(OSError):
        print(one_line(text), file=sys.stderr, flush=True)


class _LiteralConsole(Console):
    """A console whose strings, those in tables too, are printed as they are; styles are given as `Text` or `style`."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def console() -> Console:
    """Returns a console that prints strings as they are: no markup, no emoji names, no colours for numbers."""
    return _LiteralConsole(markup=False, emoji=False, highlight=False)
