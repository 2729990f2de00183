"""The notebooks, and the README's lines for one, run as they stand, on the public interface alone."""

import ast
import contextlib
import io
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import research

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FOREIGN = {"jax", "numpy", "matplotlib", "IPython"}
LARGEST = 300_000  # bytes, outputs included
FEW = 30  # steps of training, more than those of the warm-up

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def readme_snippet():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(from research import GPT.*?)```", readme, re.DOTALL)[1]


def imports(source):
    """Yields (module, name) of every import; the name is "" for a whole module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [FEW, None], ids=lambda value: f"{value or 'all'} steps")
@notebooks
def test_every_cell_runs_and_warns_of_nothing(path, steps, tmp_path, monkeypatch):
    """From a fresh kernel in an empty folder, every cell runs, prints nothing to standard error, leaves no file."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook) if steps else ():
        cell.source = re.sub(r"\bsteps=\d+", f"steps={steps}", cell.source).replace("limit=1000", "limit=100")
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not list(tmp_path.iterdir())


@notebooks
def test_notebooks_import_the_public_interface_only(path):
    """From this project a notebook takes what `from research import ...` offers; else JAX, NumPy, plots, Python."""
    for cell in code_cells(nbformat.read(path, as_version=4)):
        for module, name in imports(cell.source):
            if module.split(".")[0] == "research":
                assert module == "research"
                assert name in research.__all__
            else:
                assert module.split(".")[0] in FOREIGN | sys.stdlib_module_names


@notebooks
def test_committed_notebooks_show_what_they_did(path):
    """Outputs are committed, complete, small and in order, so that a reader sees them without running anything."""
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
    assert path.stat().st_size < LARGEST


def test_the_readme_snippet_runs(tmp_path, monkeypatch):
    """The README's lines for a notebook, but for fewer steps, train, and print metrics and a sample."""
    monkeypatch.chdir(tmp_path)
    snippet = re.sub(r"steps=\d+", "steps=5", readme_snippet())
    snippet = snippet.replace("LanguageEvaluator()", "LanguageEvaluator(limit=100)")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(snippet, "README snippet", "exec"), {})
    assert "bits_per_character" in printed.getvalue()
    assert len(list(tmp_path.glob("runs/first/*/run.json"))) == 1
