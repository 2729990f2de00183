"""The backend under the numbers: its self-test, its compilation cache, and a description for the record.

Some releases of jaxlib return silently wrong numbers on CPU. `self_test` runs the kernels known to break, compiled
against NumPy, and refuses a backend that fails; it takes milliseconds once cached.
"""

import functools
import importlib.metadata
import os
import platform
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.core.errors import UserError
from research.core.terminal import print_message
from research.runtime.jax_internals import backends_are_initialized

MIN_FREE_BYTES = 2**26  # on the disk of the compilation cache; programs take some megabytes each
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "tokenizers", "numpy")


def cache_folder() -> Path:
    """Where prepared data and compiled programs are kept: `$ONTOGENY_CACHE`, else the user's cache folder.

    A user without a home gets a folder for this process alone, as others could write into one that they know.
    """
    if named := os.environ.get("ONTOGENY_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ontogeny"
    try:
        return Path.home() / ".cache" / "ontogeny"
    except RuntimeError:
        return _folder_of_this_process()


@functools.cache
def _folder_of_this_process() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ontogeny-"))
    print_message(
        f"there is no home folder: what is prepared and compiled goes to {folder}; name a lasting one, ONTOGENY_CACHE"
    )
    return folder


def start(threads: int = 0) -> None:
    """Sets up the persistent compilation cache and tests the backend; call once, before the first computation.

    Args:
        threads: the size of XLA's CPU thread pool (0: as it comes); where the backend runs already it keeps its own.
    """
    if threads and not backends_are_initialized():
        os.environ["NPROC"] = str(threads)
    folder = cache_folder() / "xla"
    if problem := _problem(folder):
        print_message(f"{folder} {problem}: programs are compiled each time; name another place with ONTOGENY_CACHE")
        jax.config.update("jax_compilation_cache_dir", None)
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # A disk that fills up later makes compilation slower, and JAX warns once for each program.
    warnings.filterwarnings("ignore", message="Error (writing|reading) persistent compilation cache")
    self_test()


@functools.cache
def _problem(folder: Path) -> str:
    """Returns why nothing can be cached in a folder, "" where it can: asked once a process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return "" if free >= MIN_FREE_BYTES else f"has only {free:,} bytes free"


@functools.cache
def self_test() -> None:
    """Tests the backend once a process; raises UserError where a compiled kernel differs from NumPy.

    `vmap` of a matrix-vector product, then a sum: jaxlib 0.10.2 on CPU gives 267911424 for 268435456.
    """
    ones = jnp.ones((1024, 512))
    total = jax.jit(lambda m, v: jax.vmap(lambda row: m @ row)(v).sum())(ones, jnp.ones((512, 512)))
    x = np.linspace(-1, 1, 2**7 * 3, dtype=np.float32).reshape(2, 2, 2, 2, 2, 2, 6)
    reduced = jax.jit(lambda a: (a * a).sum((0, 2, 4, 6)))(x)
    product = jax.jit(lambda a, b: jnp.einsum("bij,bjk->bik", a, b))(x.reshape(4, 8, 12), x.reshape(4, 12, 8))
    # The first two are exact or nearly so anywhere; accelerators may round the factors of a product to bfloat16.
    expected = (
        ("matrix-vector products", total, 1024.0 * 512 * 512, 1e-5),
        ("reductions", reduced, (x * x).sum((0, 2, 4, 6)), 1e-4),
        ("batched products", product, x.reshape(4, 8, 12) @ x.reshape(4, 12, 8), 2e-2),
    )
    for name, found, right, tolerance in expected:
        if not np.allclose(found, right, rtol=tolerance, atol=tolerance):
            raise UserError(
                f"The backend {jax.default_backend()!r} of jaxlib {importlib.metadata.version('jaxlib')} computes "
                f"wrong {name}: install the jax release pinned in constraints.txt."
            )


def describe() -> dict[str, Any]:
    """Returns what the numbers may depend on: versions, devices, threads, flags."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "backend": jax.default_backend(),
        "devices": {"kind": devices[0].device_kind, "count": len(devices), "processes": jax.process_count()},
        "processor": _processor(),
        "thread_pool": thread_pool_size(),
        "flags": {
            name: os.environ[name] for name in ("XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION") if name in os.environ
        },
    }


def _processor() -> str:
    """The name of the processor, as its maker calls it where the system tells."""
    with suppress(OSError, UnicodeDecodeError):
        if name := processor_name(Path("/proc/cpuinfo").read_text(encoding="utf-8")):
            return name
    return platform.processor() or platform.machine()


def processor_name(information: str) -> str:
    """Returns the name and generation of the processor that Linux describes so; "" where it gives no name.

    The name alone is not enough: virtual machines call several generations by one name, and XLA compiles other machine
    code for each.

    >>> processor_name("cpu family\\t: 25\\nmodel\\t\\t: 1\\nmodel name\\t: AMD EPYC\\n")
    'AMD EPYC (family 25, model 1)'
    """
    fields: dict[str, str] = {}
    for line in information.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name, family, model = (fields.get(key, "") for key in ("model name", "cpu family", "model"))
    return f"{name} (family {family}, model {model})" if name and family and model else name


def thread_pool_size() -> int:
    """XLA's CPU thread pool, on whose size the bits depend: `NPROC`, else the larger of the cores and the devices."""
    return int(os.environ.get("NPROC") or max(_cores(), jax.local_device_count()))


def _cores() -> int:
    """The cores this process may use; systems that do not tell have it use all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
