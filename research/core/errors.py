"""The one exception for a user's mistake, which the command line turns into a sentence and exit code 2.

Raise `UserError` where the cause lies with the input (an option, a file, a data set, a run directory), with
one sentence that says what was wrong, what was found and what to do. Anything else is a bug and keeps its trace.
"""


class UserError(Exception):
    """An error the user can fix; its text is the whole message."""
