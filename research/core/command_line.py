"""The command line: typed options from frozen dataclasses, and one sentence for a user's mistake.

`parse` turns a configuration into options (`--model.depth 6`), `run` calls a program's main function and turns
`UserError` into a message on standard error and exit code 2. Every stage and every experiment starts here.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

from research.core.errors import UserError
from research.core.renames import renamed_option

T = TypeVar("T")


def parse(cls: type[T], default: T | None = None, *, description: str = "", args: Sequence[str] | None = None) -> T:
    """Parses the command line into `cls`; an unknown or ill-typed option exits with code 2 and the nearest name."""
    arguments = sys.argv[1:] if args is None else args
    if old := renamed_option(arguments, cls if default is None else default):
        _fail(f"{old[0]} is now called {old[1]}: give that instead.", 2)
    # An optional part (`schedule: Schedule | None`) has options, not subcommands.
    options: dict[str, Any] = {"config": (tyro.conf.AvoidSubcommands,)}
    if default is not None:
        options["default"] = default
    return tyro.cli(cls, description=description, args=args, **options)


def run(main: Callable[[], None]) -> None:
    """Runs a program; a `UserError` ends it with one sentence and exit code 2, Ctrl-C with 130, as shells expect."""
    try:
        main()
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
