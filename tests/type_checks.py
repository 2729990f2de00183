"""Builds the checks of a function's types and shapes when it is first called, and once for all its closures.

pytest's option `--jaxtyping-packages` decorates every function of the project with `jaxtyping.jaxtyped`, and building
its checks takes milliseconds: most functions are never called by one test process, and a function inside another one
is defined again and again. Importing this module, which `conftest.py` does before all others, puts a decorator in its
place that waits. In each file of tests the first calls of a function are checked: the hundredth shows nothing new.
"""

import functools
import inspect
import threading
import types
from collections.abc import Callable
from typing import Any

import jaxtyping

Function = Callable[..., Any]
CHECKED_CALLS = 10  # of a function, in each file of tests
calls: dict[int, int] = {}  # so far, by the identity of the function's code


def lazily(jaxtyped: Function) -> Function:
    """Returns a decorator that does at the first call what `jaxtyped` does at the definition."""
    checked: dict[int, tuple[types.CodeType, Function]] = {}  # by identity: that of a module run twice is equal
    thread = threading.local()

    def decorate(function: Any = None, *, typechecker: Any) -> Any:
        if function is None:
            return functools.partial(decorate, typechecker=typechecker)
        if not inspect.isfunction(function):
            return jaxtyped(function, typechecker=typechecker)
        code = function.__code__

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            calls[id(code)] = count = calls.get(id(code), 0) + 1
            if count > CHECKED_CALLS:
                return function(*arguments, **named)
            if id(code) not in checked:
                checked[id(code)] = code, jaxtyped(_stand_in(function, thread), typechecker=typechecker)
            before = getattr(thread, "function", None)
            thread.function = function
            try:
                return checked[id(code)][1](*arguments, **named)
            finally:
                thread.function = before

        return call

    return decorate


def _stand_in(function: Function, thread: threading.local) -> Function:
    """Returns a function of the same signature that calls the closure which the thread is about to call."""

    def call(*arguments: Any, **named: Any) -> Any:
        return thread.function(*arguments, **named)

    # Annotations that are strings are looked up among the globals of the function's own module.
    stand_in = types.FunctionType(call.__code__, function.__globals__, closure=call.__closure__)
    return functools.wraps(function)(stand_in)


jaxtyping.jaxtyped = lazily(jaxtyping.jaxtyped)
