"""Private names of JAX: this release has each of them, another one's lack is a sentence, and no other file uses any."""

import ast
import gc
import types
from collections.abc import Callable

import jax
import pytest
from tiny_run import ROOT

from research.core.errors import UserError
from research.runtime import jax_internals

PRIVATE = "jax._src"
OWNER = ROOT / "research" / "runtime" / "jax_internals.py"
OPTIONS = ("jax_enable_recoverability", "jax_enable_preemption_service")

FUNCTIONS: dict[str, Callable[[], object]] = {
    "xla_bridge.backends_are_initialized": jax_internals.backends_are_initialized,
    "distributed.global_state": jax_internals.coordination_client,
    "lib._xla_gc_callback": lambda: jax_internals.is_gc_callback(private_imports.__code__),
}


@pytest.fixture
def options_restored():
    """Gives both options of JAX their values back."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_this_release_of_jax_has_every_private_name(options_restored):
    """Where a newer release has moved one, the sentence of its function names it."""
    jax.devices()
    assert jax_internals.backends_are_initialized()
    assert jax_internals.coordination_client() == (None, 0)
    jax_internals.keep_running_without_peers()
    callbacks = [each.__code__ for each in gc.callbacks if isinstance(each, types.FunctionType)]
    assert [jax_internals.is_gc_callback(code) for code in callbacks].count(True) == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_that_jax_has_moved_is_one_sentence(name, monkeypatch):
    """It says which name, of which release, and which file uses it."""
    monkeypatch.setattr(jax_internals.importlib, "import_module", lambda module: types.ModuleType(module))
    with pytest.raises(UserError) as error:
        FUNCTIONS[name]()
    assert str(error.value).startswith(f"jax {jax.__version__} does not have {PRIVATE}.{name}, which")
    assert str(OWNER.relative_to(ROOT)) in str(error.value)


def test_an_option_that_jax_has_dropped_is_one_sentence(monkeypatch):
    """Likewise for options that are not documented."""

    def refuse(name: str, value: object) -> None:
        raise AttributeError(name)

    monkeypatch.setattr(jax.config, "update", refuse)
    with pytest.raises(UserError, match=r"does not have the option jax_enable_recoverability, which research/runtime"):
        jax_internals.keep_running_without_peers()


def private_imports(text: str) -> list[str]:
    """Returns the imports and attributes of JAX's private modules in the text of a Python file."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found += [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return [name for name in found if str(name) == PRIVATE or str(name).startswith(PRIVATE + ".")]


@pytest.mark.parametrize("text", ["from jax._src import core", "import jax._src.core", "jax._src.core.Tracer"])
def test_the_check_sees_every_way_to_a_private_name(text):
    """Else the next test would show nothing."""
    assert private_imports(text)


def test_no_other_file_uses_a_private_name_of_jax():
    """The next release of JAX is then a matter of one file."""
    assert private_imports(OWNER.read_text(encoding="utf-8"))
    files = [path for folder in ("research", "experiments", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in files if path != OWNER and private_imports(path.read_text(encoding="utf-8"))] == []
