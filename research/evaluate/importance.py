"""Permutation importance of the columns of a table: how much worse a metric gets where a column is that of other rows.

Breiman, "Random Forests" (2001), section 10; the permutation is fixed. A column that another one repeats counts for
little, since the model can still read the other.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Integer

from research.data.dataset import Example, Records
from research.data.pipeline import gather
from research.data.shuffle import shuffled
from research.evaluate.metrics import Results
from research.train.evaluation import Best

MAX_ROWS = 2000
MAX_PREDICTIONS = 50_000  # of all columns together: the end of a run waits for them
MAX_COLUMNS = 100  # a table of more gets no importance


@dataclasses.dataclass(frozen=True)
class ColumnOfOthers:
    """The first rows of a split, in which some features are those of other rows.

    Attributes:
        records: the split.
        span: the first of the features, and the one after the last.
        order: the row that each row takes them from.
    """

    records: Records
    span: tuple[int, int]
    order: Integer[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        return {name: array[0] for name, array in self.gather(np.array([index])).items()}

    def gather(self, indices: Integer[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """Returns a batch of rows."""
        batch, others = gather(self.records, indices), gather(self.records, self.order[indices])
        inputs = batch["inputs"].copy()
        inputs[:, slice(*self.span)] = others["inputs"][:, slice(*self.span)]
        return {**batch, "inputs": inputs}


def column_importance(
    measure: Callable[[Records, int], Results], records: Records, columns: Mapping[str, tuple[int, int]], best: Best
) -> dict[str, float]:
    """Returns by column how much worse the metric of `best` gets on the first rows; none of too many columns.

    Args:
        measure: (records, rows) to results.
        records: the split, its features in "inputs".
        columns: the features of each column.
        best: the metric, and whether its lowest or highest value is the best.
    """
    rows = min(len(records), MAX_ROWS, MAX_PREDICTIONS // (1 + len(columns)))
    if not 0 < len(columns) <= MAX_COLUMNS:
        return {}
    (metric, direction), order = best, shuffled(np.arange(rows), rows, 0)
    before = measure(records, rows)[metric]
    after = {name: measure(ColumnOfOthers(records, span, order), rows)[metric] for name, span in columns.items()}
    sign = 1 if direction == "min" else -1
    return {name: round(sign * (value - before), 6) for name, value in after.items()}
