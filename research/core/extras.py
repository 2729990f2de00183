"""Packages that only some uses need: the extras of `pip install -e '.[NAME]'`."""

import importlib
from typing import Any

from research.core.errors import UserError


def import_extra(module: str, extra: str, what: str) -> Any:
    """Returns a module of an extra's package.

    Args:
        module: such as "tensorboardX".
        extra: that installs it.
        what: needs it, for the message.

    Raises:
        UserError: the package is not installed; says how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{what} needs a package that is not installed: pip install -e '.[{extra}]'.") from None
