"""Every private name of JAX that this project needs, each behind a small function that says why.

JAX may move a private name in any release, so no other file may import `jax._src`. Where a name has moved, the
function that needs it says so in one sentence; `tests/runtime/test_jax_internals.py` calls them all, so that a new
release of JAX is known to fit before anyone trains with it.
"""

import importlib
from types import CodeType
from typing import Any

import jax

from research.core.errors import UserError


def backends_are_initialized() -> bool:
    """Returns whether JAX has started a backend, which has then read its environment variables."""
    # Every public question about backends or devices starts one.
    return bool(_private("xla_bridge", "backends_are_initialized")())


def coordination_client() -> tuple[Any, int]:
    """Returns (client of the coordination service, index of this process); (None, 0) outside a distributed session."""
    # `jax.distributed` has no public access to the service's key-value store, barriers and list of live processes, and
    # `jax.process_index` starts a backend.
    state = _private("distributed", "global_state")
    return _attribute(state, "client"), int(_attribute(state, "process_id"))


def keep_running_without_peers() -> None:
    """Lets this process run on, and handle SIGTERM itself, after another process of its session is lost."""
    # These options are not documented. Without the first the runtime ends every process when one is lost, in its own
    # words; when process 0 is lost it still does. The second one's service would take SIGTERM from the training loop.
    _set_option("jax_enable_recoverability", True)
    _set_option("jax_enable_preemption_service", False)


def keep_collectives_on_loopback(address: str) -> None:
    """Lets the processors of this machine's processes exchange data over `address` alone, from the next backend on.

    To be called in a distributed session, before a backend starts.
    """
    # By itself the backend listens on the address that the host's own name stands for, which others may reach. Only
    # the factory of the backend takes another; a collectives implementation that a user has chosen stays.
    if jax.config.values.get("jax_cpu_collectives_implementation", "gloo") != "gloo":
        return
    make_client = _private("xla_bridge", "make_cpu_client")
    make_collectives = _attribute(_private("lib", "_jax"), "make_gloo_tcp_collectives")
    client, _ = coordination_client()

    def make() -> Any:
        return make_client(collectives=make_collectives(distributed_client=client, hostname=address))

    _private("xla_bridge", "register_backend_factory")("cpu", make, priority=0, fail_quietly=False)


def is_gc_callback(code: CodeType) -> bool:
    """Returns whether this is the code of the function that JAX has the garbage collector call."""
    # An exception raised there, by a signal handler for one, is only printed and then lost.
    return bool(code is _private("lib", "_xla_gc_callback").__code__)


def _private(module: str, name: str) -> Any:
    """Returns the object `jax._src.MODULE.NAME`; raises UserError where this release of JAX has none."""
    try:
        return getattr(importlib.import_module(f"jax._src.{module}"), name)
    except (ImportError, AttributeError):
        raise _moved(f"jax._src.{module}.{name}") from None


def _attribute(state: Any, name: str) -> Any:
    if not hasattr(state, name):
        raise _moved(f"the attribute {name!r} of {type(state).__module__}.{type(state).__name__}")
    return getattr(state, name)


def _set_option(name: str, value: Any) -> None:
    try:
        jax.config.update(name, value)
    except AttributeError:
        raise _moved(f"the option {name}") from None


def _moved(name: str) -> UserError:
    return UserError(
        f"jax {jax.__version__} does not have {name}, which research/runtime/jax_internals.py uses: install the jax "
        "release pinned in constraints.txt, or find the new name and change that file."
    )
