"""Tokens that a task hides."""

import numpy as np
import pytest
from batches import measured

from research.evaluate.masked import token_metrics

DRAW = np.random.default_rng(0)


def test_hidden_tokens_are_measured_where_the_task_hides_them():
    """Targets and mask are the predictions', or where there are none there the batch's."""
    logits = DRAW.normal(size=(4, 6, 9)).astype(np.float32)
    targets, mask = DRAW.integers(0, 9, (4, 6)), (DRAW.random((4, 6)) < 0.5).astype(np.float32)
    made = {"targets": targets, "mask": mask}
    found = measured(token_metrics(), {"logits": logits, **made}, {})
    assert found == measured(token_metrics(), {"logits": logits}, made)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(logs, targets[..., None], -1)[..., 0][mask > 0].mean()
    assert found["loss"] == pytest.approx(nats, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(nats), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == targets)[mask > 0].mean())
