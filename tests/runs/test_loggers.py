"""Loggers beside metrics.jsonl: each finite number of an entry goes out once, under the name of its split."""

import math
import sys
import types

import pytest

from research.core.errors import UserError
from research.runs.loggers import open_loggers


@pytest.fixture
def written(monkeypatch):
    """Stands in for the packages TensorBoard and W&B are written with; what they were given."""
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder.endswith("tensorboard")

        def add_scalar(self, name, value, step):
            written.append(("tensorboard", name, value, step))

    session = types.SimpleNamespace(
        log=lambda values, step: written.extend(("wandb", *item, step) for item in values.items())
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: session))
    return written


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_numbers_go_out_under_the_name_of_their_split(written, kind, tmp_path):
    """Texts, matrices and values that are not finite do not."""
    entry = {"step": 3, "kind": "evaluation", "name": "validation", "loss": 0.5, "auc": math.nan, "matrix": [[1]]}
    for logger in open_loggers([kind], tmp_path, {}):
        logger(entry)
        logger({"step": 3, "kind": "train", "loss": 0.25, "unit": "tokens"})
    assert written == [(kind, "validation/loss", 0.5, 3), (kind, "train/loss", 0.25, 3)]


def test_a_logger_that_is_not_installed_is_named(monkeypatch, tmp_path):
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[wandb\]'"):
        open_loggers(["wandb"], tmp_path, {})
