"""RESULTS.md is true: every experiment stands in it, and the quick ones reach their numbers again."""

import importlib
from pathlib import Path

import pytest

from research.launch.discovery import modules
from research.launch.results import measured, read_rows
from research.train.run import train

QUICK = ("article_softmax",)
SLOWER = ("article_binary", "article_regression", "bert_answers", "mlp_adult")  # a minute each


def test_every_experiment_states_what_it_expects_and_has_its_rows():
    """A new experiment comes with an expected number, and `make results` was run since."""
    expected = {
        (name, metric) for name in modules() for metric in importlib.import_module(f"experiments.{name}").EXPECTED
    }
    assert set(read_rows()) == expected


def test_measured_numbers_lie_in_the_expected_range():
    """The table shows no miss that nobody noticed."""
    for (name, metric), row in read_rows().items():
        low, high = importlib.import_module(f"experiments.{name}").EXPECTED[metric]
        assert low <= float(row[3]) <= high, (name, metric, row[3])


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)])
def test_a_quick_experiment_reaches_its_number_again(name: str, tmp_path: Path):
    """Drift in data, model or training shows: the number of RESULTS.md comes out again."""
    module = importlib.import_module(f"experiments.{name}")
    run = train(module.CONFIG, name=name, root=tmp_path)
    for metric in module.EXPECTED:
        recorded = float(read_rows()[name, metric][3])
        # Other processors round otherwise, which ten thousand steps carry into the third digit.
        assert measured(dict(run.record), metric) == pytest.approx(recorded, rel=0.01, abs=0.002)
