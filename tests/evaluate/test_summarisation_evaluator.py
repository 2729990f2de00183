"""ROUGE against the numbers of the reference implementation."""

import pytest

from research.evaluate.summarisation import rouge


def test_rouge_of_a_sentence():
    """The example of rouge-score's documentation, which gives 0.7059, 0.2667 and 0.5882 for it (0.1.2)."""
    found = rouge(["The quick brown dog jumps on the log."], ["The quick brown fox jumps over the lazy dog"])
    assert found == pytest.approx({"rouge_1": 12 / 17, "rouge_2": 4 / 15, "rouge_l": 10 / 17})
