"""Promises about the code itself: which way it imports, what it never imports, and that a reader finds their way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports
from tiny_run import OPTIONS, ROOT

FILES = sorted(path for folder in ("research", "experiments") for path in (ROOT / folder).rglob("*.py"))
UNSAFE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
OTHERS = {"tensorflow", "torch"}

# Runs the module named in its second argument as a program in which the packages named in its first seem to be
# installed, and fail when they are imported.
TRAPPED = """
import importlib.machinery, runpy, sys

class Trap:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name in trapped else None

    def create_module(self, spec):
        imported.append(spec.name)
        raise ImportError(f"{spec.name} is imported")

trapped, imported = sys.argv[1].split(","), []
sys.meta_path.insert(0, Trap())
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
print("imported:", imported)
"""


def imported_names(path: Path) -> set[str]:
    """Returns the dotted names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def importing(forbidden: set[str], files: list[Path]) -> list[Path]:
    """Returns the files that import a forbidden module or anything inside it."""
    return [
        path
        for path in files
        if any(name == each or name.startswith(each + ".") for name in imported_names(path) for each in forbidden)
    ]


def test_the_stages_are_imported_one_way() -> None:
    """The contracts of import-linter hold: core, data and models, tasks, evaluate, train, report, experiments."""
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == 0


def test_a_layer_of_the_contract_exists_for_every_package() -> None:
    """Every package and command of research/ has its place in the contract, new ones included."""
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[[tool.importlinter.contracts]]")[2]
    entries = [
        path for path in (ROOT / "research").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    names = {path.stem for path in entries} - {"__init__", "__pycache__"}
    assert len(names) >= 8
    assert not [name for name in names if f"research.{name}" not in contract]


def test_linen_stays_inside_the_models() -> None:
    """Nothing outside research/models imports flax.linen."""
    models = ROOT / "research" / "models"
    assert importing({"flax.linen"}, [path for path in FILES if path.is_relative_to(models)]), "the check sees imports"
    assert importing({"flax.linen"}, [path for path in FILES if not path.is_relative_to(models)]) == []


@pytest.mark.parametrize("forbidden", [UNSAFE, OTHERS])
def test_unsafe_and_foreign_packages_are_not_imported(forbidden: set[str]) -> None:
    """No file imports a pickle of any kind, TensorFlow or PyTorch."""
    assert importing(forbidden, FILES) == []


def test_an_experiment_runs_without_tensorflow_and_torch(tmp_path: Path) -> None:
    """A whole run, from the catalogue's data to the report, imports neither package, even where they are installed."""
    short = [*OPTIONS, "--steps", "6", "--schedule.warmup", "1", "--runs", str(tmp_path)]
    arguments = [",".join(sorted(OTHERS)), "experiments.gpt_austen", *short]
    ended = subprocess.run(
        [sys.executable, "-c", TRAPPED, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip().endswith("imported: []")
    assert list(tmp_path.glob("gpt_austen/*/report.html"))


def test_every_module_says_what_it_is() -> None:
    """Every file with code opens with a docstring."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    assert not [path for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]


def test_files_are_short_and_named_for_what_they_hold() -> None:
    """No file passes 350 lines, and none is named utils, helpers or common."""
    assert not [path for path in FILES if path.read_text(encoding="utf-8").count("\n") > 350]
    assert not [path for path in FILES if path.stem in {"utils", "util", "helpers", "helper", "common", "misc"}]
