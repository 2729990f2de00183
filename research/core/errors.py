"""The one exception for a user's mistake, which the command line turns into a sentence and exit code 2.

Raise `UserError` where the cause lies with the input (an option, a file, a data set, a run directory), with
one sentence that says what was wrong, what was found and what to do. Anything else is a bug and keeps its trace.
"""

from collections.abc import Iterable
from itertools import islice


class UserError(Exception):
    """An error the user can fix; its text is the whole message."""


def visible(text: object) -> str:
    """Returns a text for a message, whatever cannot be printed escaped."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(text))


def quoted(value: object, limit: int = 60) -> str:
    """Returns a value for a message, as Python writes it; of a long one the beginning.

    >>> quoted("a\\n" * 50, 8)
    "'a\\\\na\\\\na..."
    """
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def listed(names: Iterable[object], limit: int = 10) -> str:
    """Returns names for a message: the first ten, each cut to 60 printable characters, and "..." where more follow.

    >>> listed(["age", "a\\nb"])
    'age, a\\\\nb'
    """
    first = list(islice(names, limit + 1))
    shown = [visible(str(name)[:60]) for name in first[:limit]]
    return ", ".join([*shown, *(["..."] if len(first) > limit else [])]) or "none"
