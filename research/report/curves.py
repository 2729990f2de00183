"""From the lines of `metrics.jsonl` to charts: the curves of one run, or those of several runs together.

Entries are those of the training loop: "train", "evaluation" and "sample", each with its step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from research.report.charts import Chart, Point, Series, Style, line_chart, smooth
from research.report.numbers import Number

Entry = Mapping[str, Any]
COLOURS = 7  # of the palette, before the grey of baselines
DRAWN = {"loss", "accuracy"}  # metrics that every page draws
NOISY = 60  # training entries from which a smoothed line is worth drawing


def points(entries: Sequence[Entry], kind: str, metric: str, split: str | None = None) -> list[Point]:
    """Returns the (step, value) pairs of a metric in training entries, or in the evaluations of a split."""
    return [
        (entry["step"], float(entry[metric]))
        for entry in entries
        if entry["kind"] == kind and entry.get("name") == split and isinstance(entry.get(metric), int | float)
    ]


def splits_of(entries: Sequence[Entry]) -> list[str]:
    """Returns the names of the evaluated splits, in order of appearance."""
    return list(dict.fromkeys(entry["name"] for entry in entries if entry["kind"] == "evaluation"))


def rates_of(entries: Sequence[Entry]) -> dict[str, str]:
    """Returns {metric: optimizer group} of the learning rates, in order; the group is "" where there is only one."""
    names = dict.fromkeys(name for entry in entries if entry["kind"] == "train" for name in entry)
    rates = [name.partition("/") for name in names if name.partition("/")[0] == "learning_rate"]
    return {"".join(parts): parts[2] for parts in rates}


def rate_unit(entries: Sequence[Entry]) -> str:
    """Returns the unit of the throughput: "tokens per second" or "examples per second"."""
    return next((f"{entry['unit']} per second" for entry in entries if "unit" in entry), "per second")


def run_charts(
    entries: Sequence[Entry],
    baseline: tuple[str, Number] | None = None,
    events: Sequence[tuple[int, str, str]] = (),
    best: str = "loss",
) -> list[Chart]:
    """Returns the charts of a run; those without values are left out.

    Args:
        entries: the lines of `metrics.jsonl`.
        baseline: name and loss of the best baseline, drawn into the loss chart.
        events: (step, text, kind) of what befell single steps, marked there too.
        best: the metric that decides which checkpoint is the best; drawn if it is another than loss and accuracy.
    """
    loss = _training_and_evaluation(entries, "loss")
    if baseline is not None and loss:
        name, value = baseline
        last = max(step for line in loss for step, _ in line.points)
        loss.append(Series(f"{name} baseline", [(0, float(value)), (last, float(value))], COLOURS, "dashed"))
    charts = [
        line_chart("Loss", loss, logarithm=True, large=True, events=events),
        line_chart("Accuracy", _training_and_evaluation(entries, "accuracy")),
        line_chart("Learning rate", _learning_rates(entries), from_zero=True),
        line_chart("Gradient norm", _noisy("each step", points(entries, "train", "gradient_norm"), 3), logarithm=True),
        line_chart(
            "Throughput",
            [Series(rate_unit(entries), points(entries, "train", "rate"), 4)],
            unit=rate_unit(entries),
            from_zero=True,
        ),
    ]
    return [*(chart for chart in charts if chart is not None), *norm_charts(entries)]


def norm_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Returns the charts of the norms of layers' gradients and parameters, of many layers some from first to last."""
    logged = [entry for entry in entries if entry["kind"] == "norms"]
    layers = list(dict.fromkeys(layer for entry in logged for layer in entry["norms"]))
    count = min(len(layers), COLOURS)
    drawn = [layers[round(place * (len(layers) - 1) / max(count - 1, 1))] for place in range(count)]
    some = f", {count} of {len(layers)} layers" if count < len(layers) else ""

    def line(layer: str, part: int) -> list[Point]:
        found = [(entry["step"], entry["norms"].get(layer, (None, None))[part]) for entry in logged]
        return [(step, float(value)) for step, value in found if value is not None]

    charts = []
    for part, title in enumerate(("Gradient norm by layer", "Parameter norm by layer")):
        series = [Series(layer, line(layer, part), place) for place, layer in enumerate(drawn)]
        charts.append(line_chart(title + some, series, logarithm=True))
    return [chart for chart in charts if chart is not None]


def comparison_charts(runs: Mapping[str, Sequence[Entry]]) -> list[Chart]:
    """Returns charts in which every run, by its label, is one line."""
    splits = dict.fromkeys(split for entries in runs.values() for split in splits_of(entries))
    rates = {
        metric: f"Learning rate of {group}" if group else "Learning rate"
        for entries in runs.values()
        for metric, group in rates_of(entries).items()
    }

    def chart(title: str, kind: str, metric: str, split: str | None = None, **options: Any) -> Chart | None:
        style: Style = "dots" if kind == "evaluation" else "line"
        lines = {label: points(entries, kind, metric, split) for label, entries in runs.items()}
        if kind == "train" and metric in ("loss", "accuracy", "gradient_norm"):
            lines = {label: smooth(line) for label, line in lines.items()}
        series = [Series(label, line, colour % COLOURS, style) for colour, (label, line) in enumerate(lines.items())]
        return line_chart(title, series, **options)

    charts = [
        *(
            chart(f"Loss on the {split} split", "evaluation", "loss", split, logarithm=True, large=True)
            for split in splits
        ),
        chart("Training loss", "train", "loss", logarithm=True, large=True),
        *(chart(f"Accuracy on the {split} split", "evaluation", "accuracy", split) for split in splits),
        *(chart(title, "train", metric, from_zero=True) for metric, title in rates.items()),
        chart("Gradient norm", "train", "gradient_norm", logarithm=True),
        chart("Throughput", "train", "rate", from_zero=True, unit=rate_unit(next(iter(runs.values()), []))),
    ]
    return [chart for chart in charts if chart is not None]


def _training_and_evaluation(entries: Sequence[Entry], metric: str) -> list[Series]:
    evaluated = [
        Series(split, points(entries, "evaluation", metric, split), colour, "dots")
        for colour, split in enumerate(splits_of(entries), start=1)
    ]
    return [line for line in [*_noisy("training", points(entries, "train", metric), 0), *evaluated] if line.points]


def _learning_rates(entries: Sequence[Entry]) -> list[Series]:
    return [
        Series(group or "rate", points(entries, "train", metric), (2 + number) % COLOURS)
        for number, (metric, group) in enumerate(rates_of(entries).items())
    ]


def _noisy(name: str, line: list[Point], colour: int) -> list[Series]:
    if len(line) < NOISY:
        return [Series(name, line, colour)]
    return [Series(name, line, colour, "faint"), Series("smoothed", smooth(line), colour)]
