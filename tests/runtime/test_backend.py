"""The backend is tested before it is trusted, and described for the record."""

import shutil

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


def test_a_processor_is_named_with_its_generation():
    """Two generations that a virtual machine calls by one name are told apart, for their bits differ."""
    fields = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: AMD EPYC\n\n"
    assert backend.processor_name(fields.format(25, 1) * 2) == "AMD EPYC (family 25, model 1)"
    assert backend.processor_name(fields.format(26, 2) * 2) == "AMD EPYC (family 26, model 2)"
    assert backend.processor_name("model name\t: Some Arm\n") == "Some Arm"
    assert backend.processor_name("CPU part\t: 0xd40\n") == ""


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


def test_without_a_home_each_process_has_a_folder_of_its_own(monkeypatch, capsys):
    """A user whom the system does not know: what is compiled goes where nobody else writes, and that is said once."""
    for name in ("ONTOGENY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(backend.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    backend._folder_of_this_process.cache_clear()
    folder = backend.cache_folder()
    assert folder == backend.cache_folder() and folder.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err.count("there is no home folder") == 1
    folder.rmdir()


def test_a_cache_that_cannot_be_written_is_said_and_left_out(monkeypatch, tmp_path, capsys):
    """A file where its folder should be, or a disk without room: programs are compiled, once more each time."""
    before = jax.config.jax_compilation_cache_dir
    try:
        (tmp_path / "file").touch()
        monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / "file"))
        backend.start()
        assert "xla cannot be written (Not a directory)" in capsys.readouterr().err
        assert jax.config.jax_compilation_cache_dir is None
        monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / "small"))
        monkeypatch.setattr(backend.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**16, 2**15, 2**15))
        backend.start()
        assert "has only 32,768 bytes free" in capsys.readouterr().err
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
