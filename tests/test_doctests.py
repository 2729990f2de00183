"""The examples in docstrings are true: each `>>>` line gives what is written below it."""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import ROOT

import research

# Functions whose docstring has to have an example, beside those that have one by choice.
WITH_EXAMPLES = {
    "research.data.text.packing": {"best_fit", "pack"},
    "research.decoding.beam_search": {"make_beam_search"},
    "research.launch.sweep_points": {"draw", "read_values", "written"},
    "research.launch.sweep_stopping": {"first_bad_step"},
    "research.models.layers.experts": {"assign"},
    "research.tasks.samples": {"Audio", "Images"},
    "research.tasks.span_corruption": {"corrupt"},
}
PUBLIC = {
    member.__module__
    for member in (getattr(research, name) for name in research.__all__)
    if getattr(member, "__module__", "").startswith("research.")
}


def docstrings(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yields the name, docstring and line of a file's module, classes and functions that have an example.

    Read from the source, since a decorated function may hide its own.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and ">>>" in text:
                yield getattr(node, "name", path.stem), text, getattr(node, "lineno", 1)


def source(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def failures(module: str, texts: list[tuple[str, str, int]]) -> str:
    """Runs the examples of a module's docstrings, with the names of the module; returns what doctest says."""
    runner, report = doctest.DocTestRunner(verbose=False), []
    for name, text, line in texts:
        names = dict(vars(importlib.import_module(module)))
        test = doctest.DocTestParser().get_doctest(text, names, f"{module}.{name}", str(source(module)), line)
        runner.run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize(
    "module", sorted(module for module in PUBLIC | WITH_EXAMPLES.keys() if any(docstrings(source(module))))
)
def test_the_examples_are_true(module: str) -> None:
    """Every example of the modules of the public API, and of those named here, gives what its docstring says."""
    if said := failures(module, list(docstrings(source(module)))):
        pytest.fail(said)


@pytest.mark.parametrize("module", sorted(WITH_EXAMPLES))
def test_what_is_hard_to_picture_has_an_example(module: str) -> None:
    """Packing, span corruption, samples, beam search and expert routing are shown on a tiny input."""
    assert {name for name, _, _ in docstrings(source(module))} >= WITH_EXAMPLES[module]


def test_a_wrong_example_fails() -> None:
    """An example whose output is not what it says is reported."""
    assert "Expected:\n    3" in failures("research.core.streams", [("wrong", ">>> 1 + 1\n3", 1)])
