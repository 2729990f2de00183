"""What a classifier's results show besides numbers: ROC curve, calibration, and which columns of a table matter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from research.report import numbers
from research.report.charts import UNIT, Chart, Point, Series, unit_chart

MAX_COLUMNS = 20  # listed


def classifier_charts(results: Mapping[str, Any], split: str) -> list[Chart]:
    """Returns the charts of a split's results that have them."""
    found = [_roc(results, split), _calibration(results, split)]
    return [chart for chart in found if chart is not None]


def _roc(results: Mapping[str, Any], split: str) -> Chart | None:
    curve = results.get("roc_curve", {})
    line = _points(curve.get("false_positive_rate", ()), curve.get("true_positive_rate", ()))
    if not line:
        return None
    own = Series(f"this run, area {numbers.metric(results.get('roc_auc'))}", line)
    return unit_chart(f"ROC curve, {split}", own, "by chance", across="false positive rate", unit="true positive rate")


def _calibration(results: Mapping[str, Any], split: str) -> Chart | None:
    found = results.get("calibration", {})
    line = _points(found.get("probability", ()), found.get("right", ()))
    if not line:
        return None
    own = Series(f"this run, error {numbers.metric(found.get('error'))}", line, 1, "dots")
    is_binary = "roc_curve" in results
    across, unit = ("probability of class 1", "of class 1") if is_binary else ("probability", "predicted correctly")
    return unit_chart(f"Calibration, {split}", own, "perfect", across=across, unit=f"fraction {unit}")


def _points(across: Sequence[Any], values: Sequence[Any]) -> list[Point]:
    pairs = zip(across, values, strict=False)
    return [(round(UNIT * x), float(y)) for x, y in pairs if None not in (x, y) and math.isfinite(x + y)]


def importance_rows(importance: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Returns (column, how much worse the metric gets, share of the largest) of the columns that matter most."""
    found = {name: value for name, value in importance.items() if value is not None}
    ranked = sorted((pair for pair in found.items() if math.isfinite(pair[1])), key=lambda pair: -pair[1])
    largest = max((value for _, value in ranked), default=0) or 1
    return [(name, numbers.metric(float(value)), max(value, 0) / largest) for name, value in ranked[:MAX_COLUMNS]]
