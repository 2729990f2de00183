"""Partners among all second texts of a split."""

import numpy as np
import pytest
from batches import measured

from research.evaluate.retrieval import retrieval_metrics


def test_partners_are_looked_for_in_the_whole_split():
    """The rank of each partner among all second texts, not those of its batch alone."""
    unit = np.eye(8, dtype=np.float32).reshape(4, 2, 8)
    second = unit.copy()
    second[3, 1] = unit[0, 0]  # like the first text of another batch
    found = measured(retrieval_metrics(), {"first": unit, "second": second}, {"mask": np.ones((4, 2), np.float32)})
    assert found["accuracy"] == pytest.approx(6 / 8)  # a tie counts as lost
    assert found["mean_reciprocal_rank"] == pytest.approx((6 + 1 / 2 + 1 / 8) / 8)
