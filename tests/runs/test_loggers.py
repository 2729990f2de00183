"""Loggers beside metrics.jsonl: each finite number of an entry goes out once, under the name of its split."""

import dataclasses
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from research.core.errors import UserError
from research.runs.loggers import open_loggers
from research.runs.sample_files import write_sample
from research.tasks.samples import Audio, Images
from research.train.run import train


@pytest.fixture
def written(monkeypatch):
    """Stands in for the packages TensorBoard and W&B are written with; what they were given."""
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder.endswith("tensorboard")

        def add_scalar(self, name, value, step):
            written.append(("tensorboard", name, value, step))

        def add_text(self, name, value, step):
            written.append(("tensorboard", name, value, step))

        def add_image(self, name, value, step, dataformats):
            assert dataformats == "HWC"
            written.append(("tensorboard", name, value.shape, step))

        def add_audio(self, name, value, step, sample_rate):
            written.append(("tensorboard", name, (len(value), round(float(abs(value).max()), 3), sample_rate), step))

    session = types.SimpleNamespace(
        log=lambda values, step: written.extend(("wandb", *item, step) for item in values.items())
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    kinds = {"Html": lambda text: text, "Image": lambda path: Path(path).name, "Audio": lambda path: Path(path).name}
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: session, **kinds))
    return written


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_numbers_go_out_under_the_name_of_their_split(written, kind, tmp_path):
    """Texts, matrices and values that are not finite do not."""
    entry = {"step": 3, "kind": "evaluation", "name": "validation", "loss": 0.5, "auc": math.nan, "matrix": [[1]]}
    for logger in open_loggers([kind], tmp_path, {}):
        logger(entry)
        logger({"step": 3, "kind": "train", "loss": 0.25, "unit": "tokens"})
    assert written == [(kind, "validation/loss", 0.5, 3), (kind, "train/loss", 0.25, 3)]


SAMPLES = {
    "tensorboard": [("sample", "<b>"), ("sample", (4, 6, 3)), ("sample/0", (3, 0.5, 8000))],
    "wandb": [("sample", "<pre>&lt;b&gt;</pre>"), ("sample", "7.png"), ("sample", ["7-0.wav"])],
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_go_out_as_what_they_are(written, kind, tmp_path):
    """Text, escaped where it becomes a page; an image; a clip, of which the waveform or the file is given."""
    (log,) = open_loggers([kind], tmp_path, {})
    for sample in ("<b>", Images(np.zeros((1, 4, 6, 3), np.uint8)), Audio(np.float32([[0, 0.5, 0]]), 8000)):
        log(write_sample(tmp_path, 7, sample))
    assert written == [(kind, name, value, 7) for name, value in SAMPLES[kind]]


def test_a_logger_that_is_not_installed_is_named(monkeypatch, tiny_line_run, tmp_path):
    """The message says what to install, at once: nothing of a run is left behind, which would be the latest."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[wandb\]'"):
        train(dataclasses.replace(tiny_line_run, loggers=("wandb",)), name="tiny", root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match=r"pip install -e '.\[wandb\]'"):
        open_loggers(["wandb"], tmp_path, {})
