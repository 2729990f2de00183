"""The results of a run as tables: beside the baselines, by class, and as a confusion matrix.

Everything here reads the record (`run.json`) and the lines of `metrics.jsonl`, so that an unfinished run has results
too: those of its last evaluation.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from research.report import numbers
from research.runs.loggers import last_results

MAIN = ("bleu", "rouge_l", "accuracy", "loss")  # where the loss decides, a reader looks for the first of these
SHARES = ("accuracy", "precision", "recall", "f1", "exact_match")  # parts of the names of metrics shown in per cent
PER_CLASS = "_per_class"
CONFUSION = "confusion_matrix"
LARGEST_MATRIX = 40  # classes; of more, only the commonest confusions are listed
COMMONEST = 20
LOSS = ("loss", "min")

Results = Mapping[str, Any]
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric and its value in every column; `best` is the column of the best one, None where there is one column."""

    metric: str
    cells: tuple[str, ...]
    best: int | None


@dataclasses.dataclass(frozen=True)
class Headline:
    """The number a reader looks for first, and what it has to beat."""

    label: str
    number: float
    value: str
    direction: str
    bars: tuple[tuple[str, str, float], ...]
    """(name, value, share of the largest) of the run and its baselines, the run first"""
    beaten: bool | None
    """whether the run beats every baseline; None where there is none"""


def name_of(metric: str) -> str:
    """Returns a metric's name in words."""
    words = {"roc_auc": "ROC-AUC", "r2": "R²", "f1": "F1", "f1_macro": "F1 (macro)", "f1_micro": "F1 (micro)"}
    words |= {"bleu": "BLEU", "chrf": "chrF", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L"}
    return words.get(metric) or metric.replace("_macro", " (macro)").replace("_micro", " (micro)").replace("_", " ")


def title_of(metric: str) -> str:
    """Returns a metric's name as the title of a chart."""
    return name_of(metric)[:1].upper() + name_of(metric)[1:]


def best_of(record: Record, split: str) -> tuple[str, str]:
    """Returns the metric that decides which is best on a split, by the run's configuration, and "min" or "max".

    The lowest loss, where the configuration names none.
    """
    evaluators = record.get("config", {}).get("evaluators", ())
    found = (each["best"] for each in evaluators if "best" in each and _evaluation_name(each) == split)
    metric, direction = next(found, LOSS)
    return metric, direction


def _evaluation_name(evaluator: Mapping[str, Any]) -> str:
    """Returns what the results of a recorded evaluator are called, as `research.train.evaluation` calls them."""
    split, name = evaluator.get("split"), evaluator.get("name")
    return f"{split}/{name}" if name else str(split)


def higher_is_better(metric: str, best: tuple[str, str] = LOSS) -> bool:
    """Whether a higher value is better, as `best` says of its metric; others, unless a loss or an error, are scores."""
    if metric == best[0]:
        return best[1] == "max"
    return not (metric.startswith(("loss", "perplexity", "bits_")) or metric.endswith("error"))


def results_of(record: Record, entries: Sequence[Results]) -> tuple[dict[str, Results], int | None]:
    """Returns the results by split, and the step they were measured at (None: the end of the run)."""
    if record.get("metrics"):
        return dict(record["metrics"]), None
    step = max((entry["step"] for entry in entries if entry["kind"] == "evaluation"), default=None)
    return last_results(entries), step


def scalars(results: Results) -> dict[str, numbers.Number]:
    """Returns the metrics that are single numbers."""
    return {
        name: value for name, value in results.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def rows(columns: Sequence[Results], best: tuple[str, str] = LOSS) -> list[Row]:
    """Returns a row for each scalar metric of any column, the best value marked; `best` is that of the split."""
    metrics = dict.fromkeys(name for results in columns for name in scalars(results))
    return [
        _row(metric, [scalars(results).get(metric) for results in columns], higher_is_better(metric, best))
        for metric in metrics
    ]


def _row(metric: str, values: list[numbers.Number | None], higher: bool) -> Row:
    known = [value for value in values if value is not None and math.isfinite(value)]
    best = values.index((max if higher else min)(known)) if len(known) > 1 else None
    return Row(name_of(metric), tuple(numbers.metric(value) for value in values), best)


def main_metric(results: Results, best: tuple[str, str] = LOSS) -> str | None:
    """Returns the metric of the headline: the one that decides which checkpoint is the best.

    Beside a loss that decides, a reader looks for a score of written texts or the accuracy of a classifier (not that of
    a language model).
    """
    if best[0] != "loss" and best[0] in scalars(results):
        return best[0]
    known = [name for name in scalars(results) if name != "accuracy" or "perplexity" not in results]
    return next((name for name in MAIN if name in known), next(iter(known), None))


def best_baseline(metric: str, baselines: Mapping[str, Results], *, higher: bool) -> tuple[str, numbers.Number] | None:
    """Returns name and value of the baseline with the highest, or the lowest, value of a metric."""
    choose = max if higher else min
    known = {name: scalars(results)[metric] for name, results in baselines.items() if metric in scalars(results)}
    name = choose(known, key=known.__getitem__, default=None)
    return None if name is None else (name, known[name])


def main_split(found: Mapping[str, Results]) -> str:
    """Returns the split of the headline: the test split where there is one, else the first evaluated."""
    return "test" if "test" in found else next(iter(found), "")


def run_headline(record: Record, found: Mapping[str, Results]) -> Headline | None:
    """Returns the headline of a run with results by split; None where nothing was measured."""
    split = main_split(found)
    if not split:
        return None
    unit = loss_unit(record, found[split])
    baselines, best = record.get("baselines", {}).get(split, {}), best_of(record, split)
    return headline("this run", split, found[split], baselines, unit, best)


def headline(
    name: str,
    split: str,
    results: Results,
    baselines: Mapping[str, Results],
    unit: str,
    best: tuple[str, str] = LOSS,
) -> Headline | None:
    """Returns the main number of a split beside its baselines; None where nothing was measured."""
    metric = main_metric(results, best)
    if metric is None:
        return None
    higher = higher_is_better(metric, best)
    value = float(results[metric])
    show = numbers.share if any(part in metric for part in SHARES) else numbers.metric
    strongest = best_baseline(metric, baselines, higher=higher)
    others = [(other, scalars(values)[metric]) for other, values in baselines.items() if metric in scalars(values)]
    bars = [(name, value), *sorted(others, key=lambda bar: bar[1], reverse=higher)]
    largest = max((abs(number) for _, number in bars if math.isfinite(number)), default=0) or 1
    return Headline(
        label=f"{split} {name_of(metric)}{unit if metric == 'loss' else ''}",
        number=value,
        value=show(value),
        direction="higher is better" if higher else "lower is better",
        bars=tuple((bar, show(number), _part(number, largest)) for bar, number in bars),
        beaten=None if strongest is None else (value > strongest[1] if higher else value < strongest[1]),
    )


def _part(value: numbers.Number, largest: numbers.Number) -> float:
    return abs(value) / largest if math.isfinite(value) else 0.0


def loss_unit(record: Record, results: Results) -> str:
    """Returns what the loss is counted in, to follow its name."""
    if "r2" in results:
        return ", mean squared error"
    if "perplexity" not in results:
        return ", nats"
    kind = record.get("data", {}).get("tokenizer", {}).get("kind")
    return ", nats per character" if kind == "characters" else ", nats per token"


def class_rows(results: Results, class_names: Sequence[str]) -> tuple[list[str], list[tuple[str, tuple[str, ...]]]]:
    """Returns the columns (metrics by class) and the rows (class name, values) of the table by class."""
    columns = [name for name in results if name.endswith(PER_CLASS)]
    counts = [sum(row) for row in results.get(CONFUSION, ())]
    length = max((len(results[name]) for name in columns), default=0)
    table = [
        (
            class_name(index, class_names),
            tuple(numbers.metric(results[name][index]) for name in columns)
            + ((f"{counts[index]:,}",) if counts else ()),
        )
        for index in range(length)
    ]
    heads = [name_of(name.removesuffix(PER_CLASS)) for name in columns]
    return heads + ["examples"] * bool(counts), table


def class_name(index: int, class_names: Sequence[str]) -> str:
    """Returns the name of a class, or its number where it has none."""
    return str(class_names[index]) if index < len(class_names) else str(index)


def matrix_rows(
    matrix: Sequence[Sequence[int]], class_names: Sequence[str]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """Returns (true class, [(count, share of the true class)]) for each row of a matrix; none if it is large."""
    if len(matrix) > LARGEST_MATRIX:
        return []
    return [
        (class_name(index, class_names), [(count, count / (sum(row) or 1)) for count in row])
        for index, row in enumerate(matrix)
    ]


def confusions(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """Returns (true class, predicted class, count, share of the true class) of the commonest mistakes."""
    mistakes = [
        (count, true, predicted)
        for true, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return [
        (class_name(true, class_names), class_name(predicted, class_names), count, count / sum(matrix[true]))
        for count, true, predicted in sorted(mistakes, key=lambda mistake: (-mistake[0], *mistake[1:]))[:COMMONEST]
    ]
