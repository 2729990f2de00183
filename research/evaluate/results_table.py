"""Results beside their baselines, as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def results_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a table of the single numbers of `rows`, {row name: {metric: value}}; the first row names the columns."""
    first = next(iter(rows.values()))
    # Micro averages of one label an example all equal the accuracy; the record has them.
    names = [name for name, value in first.items() if isinstance(value, int | float) and not name.endswith("_micro")]
    table = Table("", title=title)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row, values in rows.items():
        table.add_row(row, *(_cell(values.get(name)) for name in names))
    return table


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"
