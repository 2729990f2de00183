"""Regular expressions that a user or a recorded run gives: compiled, and bounded, before they are used.

Python's matcher goes back over every way in which a pattern can match, and cannot be stopped. A pattern such as
`^(\\w+/?)*!$` has more ways than it has time for in a path of forty characters, so `fault` counts them first.
"""

import math
import re

# A private module of the standard library, which `re` itself is made of: there is no other parser of its syntax.
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST_PATTERN = 2000
LONGEST_PATH = 100  # characters, of the parameters' paths that patterns are searched in
MOST_WAYS = 8.0  # the decimal logarithm: three open repetitions such as `.*`, and some choices


def fault(pattern: str) -> str:
    """Returns what keeps a pattern from being used, or nothing.

    >>> fault("^block_\\\\d+/.*kernel$")
    ''
    >>> fault("[z-a]")
    'is no regular expression (bad character range z-a at position 1)'
    >>> fault("^(\\\\w+/?)*!$")
    'can match in too many ways: repeat nothing that repeats'
    """
    if len(pattern) > LONGEST_PATTERN:
        return f"has {len(pattern)} characters, and {LONGEST_PATTERN} are the most"
    try:
        ways = _ways(parser.parse(re.compile(pattern).pattern))
    except (re.error, OverflowError, RecursionError) as error:
        return f"is no regular expression ({error})"
    # Turned around, for what is not a number: no bound at all, repeated not once.
    return "" if ways <= MOST_WAYS else "can match in too many ways: repeat nothing that repeats"


def _ways(parts: Any) -> float:
    """Returns the decimal logarithm of the ways in which a parsed pattern can match a path, at the most."""
    total = 0.0
    for operation, argument in parts:
        match str(operation):
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, body = argument
                most = min(most, LONGEST_PATH)
                total += math.log10(max(most - least, 0) + 1) + most * _ways(body)
            case "BRANCH":
                total += math.log10(sum(10 ** min(_ways(branch), 2 * MOST_WAYS) for branch in argument[1]))
            case "SUBPATTERN":
                total += _ways(argument[-1])
            case "ASSERT" | "ASSERT_NOT":
                total += _ways(argument[1])
            case "ATOMIC_GROUP":
                total += _ways(argument)
            case "GROUPREF_EXISTS":
                total += sum(_ways(branch) for branch in argument[1:] if branch)
    return total
