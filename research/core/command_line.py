"""The command line: typed options from frozen dataclasses, and one sentence for a user's mistake.

`parse` turns a configuration into options (`--model.depth 6`), `run` calls a program's main function and turns
`UserError` into a message on standard error and exit code 2. Every stage and every experiment starts here; so does what
becomes of an output that is closed, full, or knows only some characters.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import jax
import tyro

from research.core import ranges
from research.core.errors import UserError
from research.core.renames import renamed_option
from research.core.terminal import print_message

T = TypeVar("T")
Trust = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(
        help="a package of your own that the run's configuration names, whose code is run; again for another"
    ),
]


def parse(cls: type[T], default: T | None = None, *, description: str = "", args: Sequence[str] | None = None) -> T:
    """Parses the command line into `cls`, and checks every value before anything is done with it.

    An unknown or ill-typed option exits with code 2 and the nearest name.

    Raises:
        UserError: a value is out of the range of its field.
    """
    arguments = sys.argv[1:] if args is None else args
    if old := renamed_option(arguments, cls if default is None else default):
        _fail(f"{old[0]} is now called {old[1]}: give that instead.", 2)
    # An optional part (`schedule: Schedule | None`) has options, not subcommands.
    options: dict[str, Any] = {"config": (tyro.conf.AvoidSubcommands,)}
    if default is not None:
        options["default"] = default
    return ranges.check(tyro.cli(cls, description=description, args=args, **options))


# Errors of the system that a user can correct: permissions, space on a disk, and names of files.
REFUSALS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO),
}
BROKEN_PIPE = 141  # the exit code that shells give to a program whose reader has gone: 128 + SIGPIPE


def is_given(option: str, args: Sequence[str] | None = None) -> bool:
    """Whether a command line has an option, whatever it gives it.

    >>> is_given("--schedule.warmup", ["--schedule.warmup=5", "--steps", "10"])
    True
    """
    arguments = sys.argv[1:] if args is None else args
    return option in (argument.partition("=")[0].replace("_", "-") for argument in arguments)


def run(main: Callable[[], None]) -> None:
    """Runs a program; a `UserError` ends it with one sentence and exit code 2, Ctrl-C with 130, as shells expect.

    So does what the system refuses: a file that may not be read or written, a name that is too long. Where the reader
    of the output has gone the program ends in silence. Characters that the output does not know are escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        finally:
            _flush()
    except UserError as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        name = "standard output" if error.filename is None else os.fsdecode(error.filename)
        _fail(f"{name} cannot be read or written ({error.strerror}): name another, or change what is there.", 2)
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        _fail(f"{error.object[:60]!r} is not UTF-8, as text has to be here: write it in UTF-8.", 2)
    except MemoryError as error:
        _fail(f"There is not enough memory ({error}): make the sizes smaller.", 2)
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        reason = str(error).partition("\n")[0]
        _fail(f"A device has not enough memory ({reason}): --plan-memory shows what a step of an experiment takes.", 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _flush() -> None:
    """Writes what waits for standard output now, and where that fails nothing at the end of the interpreter."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise


def _fail(message: str, code: int) -> NoReturn:
    print_message(f"error: {message}")
    sys.exit(code)
