"""Finds the experiments: the modules of `experiments/` that define `CONFIG`; `python -m experiments` lists them."""

import ast
import importlib.util
from pathlib import Path

from rich.table import Table

from research.core.terminal import console


def experiments_folder() -> Path:
    """Returns the folder of the package `experiments`, without importing it."""
    spec = importlib.util.find_spec("experiments")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def modules() -> list[str]:
    """Returns the names of the experiments: the modules that define `CONFIG`."""
    files = sorted(experiments_folder().glob("[a-z]*.py"))
    return [file.stem for file in files if "\nCONFIG = " in file.read_text(encoding="utf-8")]


def summary(name: str) -> str:
    """Returns the first line of an experiment's docstring, without importing it."""
    tree = ast.parse((experiments_folder() / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def show_experiments() -> None:
    """Prints a table of the experiments."""
    table = Table("experiment", "what it does", title="python -m experiments.NAME [--help]")
    for name in modules():
        table.add_row(name, summary(name))
    console().print(table)
