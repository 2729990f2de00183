"""Promises of samples that are images or audio: written while a run trains, shown by terminal, report and notebook."""

import base64
import dataclasses
import io
import re
import wave

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from research.core.json_files import read_lines
from research.data.synthetic import LineData
from research.models.mlp import MLP
from research.report.html import report
from research.runs.directory import METRICS
from research.runs.sample_files import write_sample
from research.tasks.regression import Regression
from research.tasks.samples import Audio, Images
from research.train.experiment import Experiment
from research.train.run import train

ATTACK = "<script>alert(1)</script>"


@dataclasses.dataclass(frozen=True)
class PaintingRegression:
    """A regression whose sample is two random images, [2 3 5 3], the second one captioned with markup."""

    def build(self, model, data):
        def sample(params, context):
            pixels = np.asarray(jax.random.bits(context.key, (2, 3, 5, 3), jnp.uint8))
            return Images(pixels, captions=("plain", ATTACK))

        return Regression().build(model, data)._replace(sample=sample)


@dataclasses.dataclass(frozen=True)
class SingingRegression:
    """A regression whose sample is six clips of a tenth of a second, of a square wave that is too loud."""

    def build(self, model, data):
        def sample(params, context):
            square = np.where(np.arange(800) % 20 < 10, np.float32(2), np.float32(-2))
            return Audio(np.tile(square, (6, 1)), rate=8000)

        return Regression().build(model, data)._replace(sample=sample)


def trained(task, root):
    """A run of four steps with a sample after the second and the last."""
    experiment = Experiment(LineData(16), MLP((2,)), task, steps=4, batch_size=4, sample_every=2, checkpoint_every=0)
    run = train(experiment, name="toy", root=root)
    return run.folder, [entry for entry in read_lines(run.folder / METRICS) if entry["kind"] == "sample"]


def embedded(page, media_type):
    """The contents of the data URIs of a page, in order."""
    return [base64.b64decode(text) for text in re.findall(f'src="data:{media_type};base64,([^"]+)"', page)]


def test_a_task_whose_sample_is_images_has_them_in_its_report(tmp_path, capsys):
    """A grid for each sampled step, named in the log and on the terminal; captions are text, never markup."""
    folder, entries = trained(PaintingRegression(), tmp_path)
    named = [{"step": step, "kind": "sample", "images": f"samples/{step}.png"} for step in (2, 4)]
    assert entries == [{**entry, "captions": ["plain", ATTACK]} for entry in named]
    assert str(folder / "samples/4.png") in capsys.readouterr().out
    page = report(folder)
    files = [(folder / entry["images"]).read_bytes() for entry in entries]
    assert embedded(page, "image/png") == files and files[0] != files[1]
    assert Image.open(io.BytesIO(files[0])).size == (11, 3)  # two of 5 x 3 and a line in between
    assert ATTACK not in page and "&lt;script&gt;alert(1)" in page


def test_a_task_whose_sample_is_audio_has_players_in_its_report(tmp_path, capsys):
    """Four clips at most for each sampled step, in 16 bits, and the page may play what it holds."""
    folder, entries = trained(SingingRegression(), tmp_path)
    assert [entry["audio"] for entry in entries] == [[f"samples/{s}-{n}.wav" for n in range(4)] for s in (2, 4)]
    assert str(folder / "samples/4-3.wav") in capsys.readouterr().out
    page = report(folder)
    clips = embedded(page, "audio/wav")
    assert len(clips) == 8 and page.count("<audio controls") == 8 and "media-src data:;" in page
    with wave.open(io.BytesIO(clips[0])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert values.shape == (800,) and set(values.tolist()) == {-32767, 32767}


def test_a_grid_shows_the_first_sixteen_images_in_rows(tmp_path):
    """Each at its place, with a line of one pixel in between; a large grid is scaled down."""
    grid = np.asarray(Image.open(io.BytesIO(Images(np.arange(1, 21, dtype=np.uint8).reshape(20, 1, 1, 1)).png())))
    np.testing.assert_array_equal(grid[::2, ::2], np.arange(1, 17).reshape(4, 4))
    assert not grid[1::2].any()
    large = Images(np.zeros((2, 2000, 1000, 3), np.uint8)).png()
    assert max(Image.open(io.BytesIO(large)).size) == 1024


def test_a_notebook_shows_a_picture_and_players():
    """By the contents themselves, captions escaped."""
    shown = Images(np.zeros((1, 2, 2, 3), np.uint8), (ATTACK,))._repr_html_()
    assert len(embedded(shown, "image/png")) == 1 and ATTACK not in shown
    assert len(embedded(Audio(np.zeros((2, 8), np.float32), 8, ("a", "b"))._repr_html_(), "audio/wav")) == 2


def test_a_sample_that_cannot_be_written_ends_no_run(tmp_path):
    """The log entry says so instead, as on a full disk."""
    (tmp_path / "samples").write_text("in the way")
    assert "could not be written" in write_sample(tmp_path, 1, Images(np.zeros((1, 2, 2, 1), np.uint8)))["text"]
