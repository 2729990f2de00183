"""Line charts as geometry: scales, ticks and paths in Python, drawn by the template `parts.html`.

A chart stretches to any width: paths live in a square of 1000 units that the page scales, labels are text placed by
percentage. Values travel along with the paths, so that the page can show them under the pointer.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from research.report import numbers

Point = tuple[int, float]  # (step, value)
SIZE = 1000  # units of the drawing, both ways
POINTS = 400  # most points drawn of a line: about one a pixel
TICKS = 5
UNIT = 1000  # "steps" of a chart that goes from 0 to 1

Style = Literal["line", "faint", "dots", "dashed"]


@dataclasses.dataclass(frozen=True)
class Series:
    """A named line; `colour` numbers the palette of the page, `errors` are half the height of its band, by step."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    style: Style = "line"
    errors: Mapping[int, float] = dataclasses.field(default_factory=dict)

    def edge(self, sign: Literal[-1, 1]) -> list[Point]:
        """Returns the lower (-1) or the upper (1) edge of the band: the line itself where it has no error."""
        return [(step, value + sign * self.errors.get(step, 0.0)) for step, value in self.points]


@dataclasses.dataclass(frozen=True)
class Scale:
    """Maps values to the height of a chart, linearly or by their logarithm."""

    low: float
    high: float
    logarithmic: bool = False

    def fraction(self, value: float) -> float:
        """Returns 0 at `low` and 1 at `high`."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Returns round values within the scale, about five."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1,)):
                values = [digit * 10.0**power for power in decades for digit in digits]
                inside = [value for value in values if self.low <= value <= self.high]
                if 3 <= len(inside) <= TICKS + 3:
                    return inside
            if len(inside) >= 3:
                return inside[:: math.ceil(len(inside) / TICKS)]
        return _round_values(self.low, self.high)


@dataclasses.dataclass(frozen=True)
class View:
    """A chart drawn on one scale: SVG paths, and labels with their places in per cent."""

    name: str
    scale: Scale
    paths: tuple[tuple[str, str], ...]
    """(CSS classes, path); one or two of each series"""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclasses.dataclass(frozen=True)
class Chart:
    """What the template draws: the view on each scale, the first one shown, and the values under the pointer."""

    title: str
    unit: str
    series: tuple[Series, ...]
    views: tuple[View, ...]
    steps: int
    large: bool = False
    events: tuple[tuple[float, str, str], ...] = ()
    """(place in per cent, text, kind) of what a reader should see beside the curves"""
    across: str = "step"
    """what the values stand over"""

    @property
    def identity(self) -> str:
        """A name that the parts of the chart share in the page."""
        return "-".join(self.title.lower().split())

    @property
    def values(self) -> str:
        """The points of every series as JSON."""
        table = [
            {
                "name": series.name,
                "style": series.style,
                "colour": series.colour,
                "points": [(step, float(f"{value:.5g}")) for step, value in series.points],
                "errors": {
                    step: float(f"{series.errors[step]:.2g}") for step, _ in series.points if step in series.errors
                },
            }
            for series in self.series
        ]
        return json.dumps({"steps": self.steps, "across": self.across, "series": table}, separators=(",", ":"))

    @property
    def description(self) -> str:
        """The chart in words, for those who cannot see it."""
        ends = [
            f"{series.name} from {numbers.metric(series.points[0][1])} to {numbers.metric(series.points[-1][1])}"
            for series in self.series
        ]
        over = f"{numbers.compact(self.steps)} steps" if self.across == "step" else self.across
        return f"{self.title} over {over}: " + ", ".join(ends)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    from_zero: bool = False,
    logarithm: bool = False,
    large: bool = False,
    events: Sequence[tuple[int, str, str]] = (),
) -> Chart | None:
    """Lays out a chart of values over steps; None where no series has a finite value.


    Args:
        title: what is shown.
        series: lines in the order of drawing; points in the order of steps.
        unit: of the values.
        from_zero: whether the scale includes zero.
        logarithm: whether positive values get a logarithmic view too, which comes first where they span a factor of 30.
        large: whether the chart takes the full width of the page.
        events: (step, text, kind) of what is marked beside the curves.
    """
    finite = [dataclasses.replace(line, points=decimate(_finite(line.points))) for line in series]
    kept = tuple(line for line in finite if line.points)
    if not kept:
        return None
    values = [value for line in kept for _, value in [*line.edge(-1), *line.edge(1)]]
    steps = max(step for line in kept for step, _ in line.points) or 1
    low, high = min(values), max(values)
    scales = {"linear": Scale(*_padded(min(low, 0.0) if from_zero else low, high, from_zero))}
    # The outer bounds keep the ends of the scale apart and above zero in floating point.
    if logarithm and 1e-300 < low < high < 1e30 * low:
        room = (high / low) ** 0.04
        scales["log"] = Scale(low / room, high * room, logarithmic=True)
    names = ["log", "linear"] if "log" in scales and high / low > 30 else list(scales)
    views = tuple(_view(name, scales[name], kept, steps) for name in names)
    marks = tuple((100 * min(step, steps) / steps, text, kind) for step, text, kind in events)
    return Chart(title, unit, kept, views, steps, large, marks)


def unit_chart(title: str, line: Series, diagonal: str, *, across: str, unit: str) -> Chart:
    """Lays out a chart whose both axes go from 0 to 1.

    Args:
        title: what is shown.
        line: its points count thousandths across.
        diagonal: what values would be that equal the place that they stand over.
        across: what the values stand over.
        unit: of the values.
    """
    ticks, scale = _round_values(0.0, 1.0), Scale(0.0, 1.0)
    lines = (line, Series(diagonal, [(0, 0.0), (UNIT, 1.0)], 7, "dashed"))
    view = View(
        name="linear",
        scale=scale,
        paths=tuple(path for each in lines for path in _paths(each, scale, UNIT)),
        x_ticks=tuple((100 * tick, numbers.compact(tick)) for tick in ticks),
        y_ticks=tuple((100 * (1 - tick), numbers.compact(tick)) for tick in ticks),
    )
    return Chart(title, unit, lines, (view,), UNIT, across=across)


def decimate(points: Sequence[Point], max_points: int = POINTS) -> list[Point]:
    """Thins a line to about `max_points` points that look the same: of each stretch the lowest and the highest stay."""
    if len(points) <= max_points:
        return list(points)
    size = math.ceil(2 * len(points) / max_points)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[index] for index in sorted(kept)]


def smooth(points: Sequence[Point]) -> list[Point]:
    """Averages a noisy line over a twentieth of its length, centred, so that the average does not lag behind it."""
    values = [value for _, value in points]
    reach = len(points) // 40
    result = []
    for index, (step, _) in enumerate(points):
        # Symmetric at the steep start; the flat end is averaged over what there is.
        room = min(reach, index)
        result.append((step, statistics.fmean(values[index - room : index + room + 1])))
    return result


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _padded(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    # A line that hardly moves gets a scale that the digits of its values can fill.
    margin = max(0.04 * (high - low), 1e-3 * max(abs(low), abs(high))) or 1.0
    return (low if from_zero and low == 0 else low - margin), high + margin


def _view(name: str, scale: Scale, series: Sequence[Series], steps: int) -> View:
    whole = [tick for tick in _round_values(0.0, float(steps)) if tick.is_integer()]
    return View(
        name=name,
        scale=scale,
        paths=tuple(path for line in series for path in _paths(line, scale, steps)),
        x_ticks=tuple((100 * tick / steps, numbers.compact(tick)) for tick in whole),
        y_ticks=tuple((100 * (1 - scale.fraction(tick)), numbers.compact(tick)) for tick in scale.ticks()),
    )


def _paths(line: Series, scale: Scale, steps: int) -> Iterator[tuple[str, str]]:
    def drawn(points: Sequence[Point]) -> list[str]:
        return [f"{SIZE * step / steps:.1f} {SIZE * (1 - scale.fraction(value)):.1f}" for step, value in points]

    places, colour = drawn(line.points), f"colour-{line.colour}"
    if line.errors:
        # The band of a single point has no area: it is drawn as an error bar.
        around = "M" + "L".join([*drawn(line.edge(-1)), *reversed(drawn(line.edge(1)))])
        yield f"{'band' if len(places) > 1 else 'bar'} {colour}", around
    if len(places) > 1:
        yield f"{line.style} {colour}", "M" + "L".join(places)
    if len(places) == 1 or line.style == "dots":
        # A line of no length has round ends: a dot that keeps its shape while the drawing is stretched.
        yield f"points {colour}", "".join(f"M{place}h0" for place in places)


def _round_values(low: float, high: float) -> list[float]:
    """Returns multiples of 1, 2, 2.5 or 5 times a power of ten from `low` to `high`."""
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    width = next(factor * power for factor in (1, 2, 2.5, 5, 10) if (high - low) / (factor * power) <= TICKS)
    return [
        float(f"{index * width:.12g}")
        for index in range(math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9) + 1)
    ]
