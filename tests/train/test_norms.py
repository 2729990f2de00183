"""Norms of layers: right, on their period, in the log and the report, and nowhere else."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.report.html import report
from research.runs.directory import read_chain, read_metrics
from research.train.experiment import Experiment
from research.train.norms import layer_norms, layers_of
from research.train.run import train

PARAMS = {
    "block_0": {"a": jnp.array([3.0, 0.0]), "b": {"c": jnp.array([[4.0]])}},
    "block_1": {"a": jnp.array([-2.0])},
    "encoder": {"block_0": {"a": jnp.array([1.0])}, "block_1": {"a": jnp.array([5.0])}},
    "scale": jnp.array(7.0),
}


def test_norms_are_those_of_each_block() -> None:
    """By hand: the square root of the sum of the squares; nothing is computed where it is not due."""
    assert layers_of(PARAMS) == ["block_0", "block_1", "encoder/block_0", "encoder/block_1", "scale"]
    gradients = jax.tree.map(lambda leaf: 2 * leaf, PARAMS)
    found = jax.jit(layer_norms)(gradients, PARAMS, jnp.array(True))
    np.testing.assert_allclose(found, [[10, 5], [4, 2], [2, 1], [10, 5], [14, 7]], rtol=1e-6)
    assert not jax.jit(layer_norms)(gradients, PARAMS, jnp.array(False)).any()


def test_a_run_logs_them_on_their_period(tiny_image_run: Experiment, tmp_path: Path) -> None:
    """Their squares add up to that of the whole gradient; the chain does not know of them; the report draws them."""
    watched = dataclasses.replace(tiny_image_run, norms_every=3)
    run = train(watched, name="tiny", root=tmp_path / "runs")
    entries = read_metrics(run.folder)
    logged = {entry["step"]: entry["norms"] for entry in entries if entry["kind"] == "norms"}
    assert list(logged) == [3, 6] and list(logged[3]) == layers_of(run.state.params)
    whole = {entry["step"]: entry["gradient_norm"] for entry in entries if entry["kind"] == "train"}
    for step, norms in logged.items():
        assert sum(gradient**2 for gradient, _ in norms.values()) == pytest.approx(whole[step] ** 2, rel=1e-4)
    assert "norms" not in read_chain(run.folder)[2]
    titles = re.findall("<figcaption><strong>(.*?)</strong>", report(run.folder))
    assert [title.partition(",")[0] for title in titles if "by layer" in title] == [
        "Gradient norm by layer",
        "Parameter norm by layer",
    ]
