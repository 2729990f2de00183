"""Lists the experiments: `python -m experiments`."""

import ast
from pathlib import Path

from rich.console import Console
from rich.table import Table


def modules() -> list[str]:
    """Returns the names of the experiments: the modules here that define `CONFIG`."""
    files = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    return [file.stem for file in files if "\nCONFIG = " in file.read_text(encoding="utf-8")]


def main() -> None:
    table = Table("experiment", "what it does", title="python -m experiments.NAME [--help]")
    for name in modules():
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        table.add_row(name, (ast.get_docstring(tree) or "").partition("\n")[0])
    Console().print(table)


if __name__ == "__main__":
    main()
