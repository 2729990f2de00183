"""Numbers as a reader wants them: digits that matter, thousands apart, durations in words; for pages and tables."""

import math
from typing import Any

Number = int | float

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))


def metric(value: Any) -> str:
    """Formats a result to four decimals, or to four digits where it is large or tiny; "–" for what is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        return _exponent(f"{value:.3e}")
    return f"{value:,.4f}" if size < 100 else f"{value:,.1f}"


def compact(value: Number) -> str:
    """Formats the label of an axis or a size in at most about five characters: 0.25, 2,000, 12k, 3.5M, 1e-5."""
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{_plain(value / (1e3 if prefix == 'k' else size))}{prefix}"
    return f"{value:,.0f}" if abs(value) >= 1000 else _plain(value)


def share(value: Number) -> str:
    """Formats a share of one as a percentage of three digits."""
    percent = 100 * value
    return f"{percent:.1f} %" if percent >= 1 or percent == 0 else f"{percent:.2g} %"


def duration(seconds: Number) -> str:
    """Formats seconds in the two largest units that say something: 12.3 s, 4 min 12 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _plain(value: Number) -> str:
    if 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _exponent(text: str) -> str:
    """Writes 1e-05 as 1e-5."""
    digits, mark, power = text.partition("e")
    return f"{digits}e{int(power)}" if mark else text
