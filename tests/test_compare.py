"""Comparing runs: configuration, results, environment, hash chains, and the page."""

import copy
import io
import sys

import numpy as np
import pytest
from rich.console import Console

from research import compare
from research.core import command_line
from research.core.errors import UserError
from research.core.files import append_lines
from research.runs.chain import START, next_entry
from research.runs.directory import CHAIN, METRICS, write_record

RECORD = {
    "name": "tiny",
    "status": "finished",
    "command": "python -m experiments.tiny",
    "config": {
        "type": "research.train.experiment.Experiment",
        "model": {"type": "research.models.mlp.MLP", "hidden": [8, 8]},
        "optimizer": {"type": "research.train.optimizers.Optimizer", "learning_rate": 0.001},
        "steps": 5,
        "seed": 0,
    },
    "environment": {"python": "3.11.9", "packages": {"jax": "0.10.1"}},
    "git": {"commit": "abc", "dirty": False},
    "metrics": {"test": {"loss": 0.5, "accuracy": 0.9}},
}


def make_run(folder, losses, **changes):
    """Writes a run whose steps had these losses; `changes` are fields by path."""
    folder.mkdir(parents=True)
    record = copy.deepcopy(RECORD)
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = record
        for name in parents:
            part = part[name]
        part[last] = value
    write_record(folder, record)
    head, chain = START, []
    for step, loss in enumerate(losses, start=1):
        metrics = {"loss": np.float32(loss), "random": np.uint32([0, step]), "batch": np.uint32([1, step])}
        chain.append(next_entry(head, step, metrics, None))
        head = chain[-1]["chain"]
    append_lines(folder / CHAIN, chain)
    append_lines(folder / METRICS, [{"step": s, "kind": "train", "loss": v} for s, v in enumerate(losses, start=1)])
    return folder


def compared(*folders):
    runs = [compare.read(letter, folder) for letter, folder in zip("ABC", folders, strict=False)]
    return runs, compare.compare(runs)


def test_only_fields_that_differ_are_listed(tmp_path):
    """A changed field, a changed type and a field that one run lacks are listed, with every run's value."""
    first = make_run(tmp_path / "a", [3, 2])
    second = make_run(
        tmp_path / "b",
        [3, 2],
        config__optimizer__learning_rate=0.003,
        config__model={"type": "research.models.gpt.GPT", "depth": 2},
    )
    _, comparison = compared(first, second)
    assert comparison.config == [
        ("model.type", ("MLP", "GPT")),
        ("model.hidden", ("[8, 8]", "–")),
        ("optimizer.learning_rate", ("0.001", "0.003")),
        ("model.depth", ("–", "2")),
    ]
    assert comparison.environment == []


def test_the_environment_that_differs_is_listed(tmp_path):
    """Versions and commits that differ are named."""
    first = make_run(tmp_path / "a", [3])
    second = make_run(tmp_path / "b", [3], environment__packages={"jax": "0.11.2"}, git__dirty=True)
    assert compared(first, second)[1].environment == [
        ("git.dirty", ("false", "true")),
        ("packages.jax", ("0.10.1", "0.11.2")),
    ]


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ([3, 2, 1], "A and B are identical in all 3 steps."),
        ([3, 2], "A and B are identical in the 2 steps that both have."),
        ([3, 2.5, 1], "A and B first differ at step 2, in result."),
        ([], "A and B: a run without steps has nothing to compare."),
    ],
)
def test_the_first_step_that_differs_is_named(tmp_path, losses, sentence):
    """The hash chains are compared: identical, identical as far as they go, or the first step and its part."""
    _, comparison = compared(make_run(tmp_path / "a", [3, 2, 1]), make_run(tmp_path / "b", losses))
    assert comparison.chains == [sentence]


def test_results_stand_side_by_side(tmp_path):
    """Every run's results are in one row a metric, the best marked; a run without them shows a dash."""
    first = make_run(tmp_path / "a", [3], metrics={"test": {"loss": 0.5}})
    second = make_run(tmp_path / "b", [3], metrics={"test": {"loss": 0.4}})
    third = make_run(tmp_path / "c", [3], metrics={"validation": {"loss": 0.3}})
    (split, (row,)), _ = compared(first, second, third)[1].results
    assert (split, row.cells, row.best) == ("test", ("0.5000", "0.4000", "–"), 1)


def test_the_terminal_and_the_page_tell_the_same(tmp_path):
    """What differs is printed and written to a page that loads nothing, one line of the chart for each run."""
    runs, comparison = compared(make_run(tmp_path / "a", [3, 2]), make_run(tmp_path / "b", [3, 1], config__seed=1))
    output = io.StringIO()
    compare.show(Console(file=output, width=100), runs, comparison)
    page = compare.write_page(tmp_path / "new" / "compare.html", runs, comparison).read_text(encoding="utf-8")
    for text in (output.getvalue(), page):
        assert "seed" in text and "first differ at step 2, in result" in text
    assert page.count('class="line colour-') >= 2
    assert "default-src 'none'" in page and "src=" not in page


def test_one_run_is_not_enough(tmp_path, monkeypatch, capsys):
    """A single run is refused with one sentence and exit code 2."""
    monkeypatch.setattr(sys, "argv", ["compare", str(make_run(tmp_path / "a", [3]))])
    with pytest.raises(SystemExit) as exit_status:
        command_line.run(compare.main)
    assert exit_status.value.code == 2
    assert "needs two to 26 runs, and 1 was given" in capsys.readouterr().err


def test_the_command_writes_where_it_is_told(tmp_path, monkeypatch, capsys):
    """`--output` says where the page goes, and its path is printed."""
    runs = [str(make_run(tmp_path / name, [3, 2])) for name in "ab"]
    monkeypatch.setattr(sys, "argv", ["compare", *runs, "--output", str(tmp_path / "page.html")])
    compare.main()
    assert f"page: {tmp_path / 'page.html'}" in capsys.readouterr().out
    assert (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_is_a_plain_sentence(tmp_path):
    """A folder in the way of the page is named, with the option that helps."""
    runs, comparison = compared(make_run(tmp_path / "a", [3]), make_run(tmp_path / "b", [3]))
    with pytest.raises(UserError, match="--output"):
        compare.write_page(tmp_path / "a", runs, comparison)
