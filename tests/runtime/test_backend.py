"""The backend is tested before it is trusted, and described for the record."""

import jax
import jax.numpy as jnp
import pytest

from research.core.errors import UserError
from research.runtime import backend


def test_the_backend_in_use_passes_its_self_test():
    """A right backend is accepted."""
    backend.self_test()


def test_it_is_tested_once_a_process(monkeypatch):
    """A second run in a process compiles nothing for it."""
    backend.self_test()
    monkeypatch.setattr(jax, "jit", pytest.fail)
    backend.self_test()


@pytest.mark.parametrize(
    ("kernel", "shape", "factor"),
    [
        ("matrix-vector products", (), 267911424 / 268435456),  # what jaxlib 0.10.2 returned for what is right
        ("reductions", (2, 2, 2), 1.001),
        ("batched products", (4, 8, 8), 1.1),
    ],
)
def test_a_wrong_kernel_is_refused_by_name(monkeypatch, kernel, shape, factor):
    """Compiled results that are a little off end in one sentence."""
    compile_right = jax.jit

    def compile_wrong(function):
        def wrong(*arguments):
            result = compile_right(function)(*arguments)
            return result * factor if jnp.shape(result) == shape else result

        return wrong

    monkeypatch.setattr(jax, "jit", compile_wrong)
    backend.self_test.cache_clear()
    with pytest.raises(UserError, match=f"computes wrong {kernel}: install the jax release pinned"):
        backend.self_test()


def test_the_description_has_what_the_numbers_depend_on():
    """Versions, devices and the thread pool are in the record, as JSON values."""
    facts = backend.describe()
    assert facts["packages"]["jax"] == jax.__version__
    assert facts["devices"]["count"] == jax.device_count()
    assert facts["thread_pool"] >= 1


def test_the_thread_pool_is_what_nproc_says(monkeypatch):
    """`NPROC` goes before the cores."""
    monkeypatch.setenv("NPROC", "7")
    assert backend.thread_pool_size() == 7


def test_the_cache_folder_is_the_users_choice(monkeypatch, tmp_path):
    """`ONTOGENY_CACHE` goes before the user's cache folder."""
    monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path))
    assert backend.cache_folder() == tmp_path
    monkeypatch.delenv("ONTOGENY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert backend.cache_folder() == tmp_path / "ontogeny"
