"""Partners among all second texts of a split."""

import numpy as np
import pytest
from batches import measured

from research.data.dataset import Data
from research.evaluate.retrieval import retrieval_baseline, retrieval_metrics


def test_partners_are_looked_for_in_the_whole_split():
    """The rank of each partner among all second texts, not those of its batch alone."""
    unit = np.eye(8, dtype=np.float32).reshape(4, 2, 8)
    second = unit.copy()
    second[3, 1] = unit[0, 0]  # like the first text of another batch
    found = measured(retrieval_metrics(), {"first": unit, "second": second}, {"mask": np.ones((4, 2), np.float32)})
    assert found["accuracy"] == pytest.approx(6 / 8)  # a tie counts as lost
    assert found["mean_reciprocal_rank"] == pytest.approx((6 + 1 / 2 + 1 / 8) / 8)


def test_words_in_both_texts_are_the_baseline():
    """TF-IDF finds a partner by a word that it shares, and ranks one that shares none last."""
    train = {"text": ["Noah built", "Moses went"], "other": ["hizo Noah", "Moses fue"]}
    evaluated = {"text": ["Noah saw", "Moses saw", "saw"], "other": ["vio Noah", "vio Moses", "vio"]}
    found = retrieval_baseline(Data({}, 0, texts={"train": train, "test": evaluated}), "test")["TF-IDF"]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["mean_reciprocal_rank"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert retrieval_baseline(Data({}, 0), "test") == {}
