"""Messages that native libraries write to the standard error by themselves, past Python.

A library in Rust writes where it panicked before Python gets the exception; whoever makes a sentence of the exception
wraps the call in `panics_hidden`.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import BinaryIO

STANDARD_ERROR = 2  # its descriptor
_one_at_a_time = threading.RLock()  # the descriptor is that of the whole process


@cache
def _caught() -> BinaryIO:
    return tempfile.TemporaryFile(buffering=0)


@contextmanager
def panics_hidden() -> Iterator[None]:
    """Keeps back what is written to the standard error, and writes it after all where nothing is raised.

    It takes some microseconds. Nothing is kept back where there is no standard error.
    """
    with _one_at_a_time:
        with suppress(AttributeError, ValueError, OSError):  # none, closed, or full
            sys.stderr.flush()
        try:
            before = os.dup(STANDARD_ERROR)
        except OSError:
            yield
            return
        caught, panicked = _caught().fileno(), True
        os.dup2(caught, STANDARD_ERROR)
        try:
            yield
            panicked = False
        finally:
            os.dup2(before, STANDARD_ERROR)
            os.close(before)
            if size := os.fstat(caught).st_size:
                written = os.pread(caught, size, 0)
                os.ftruncate(caught, 0)
                os.lseek(caught, 0, os.SEEK_SET)
                if not panicked:
                    with suppress(OSError):
                        os.write(STANDARD_ERROR, written)
