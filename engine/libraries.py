"""Importing the heavy libraries: most of the time to a run's first step.

`import_libraries` brings the whole engine in and spends nothing on what a run does not need. What is
left is the libraries' own; `tests/benchmarks/first_step.py --imports` shows it. This module is light.

* No garbage is collected meanwhile. What is imported stays: to look through it again and again takes
  a fifth of the time and finds next to nothing. Afterwards it is set aside for good (`gc.freeze`), so
  that the collections which free a failed step's memory look only at what came since.
* bitsandbytes hands four functions, written for devices that it has no kernels for, to torch.compile
  while it is imported, and torch then imports its whole compiler.
"""

import atexit
import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from importlib import import_module

_lock = threading.Lock()
_imported = False


def import_libraries() -> None:
    """Import the engine and all that it stands on. Later calls return at once.

    Threads that import the same libraries crosswise can see them half made. So a second caller waits
    here for the first.
    """
    global _imported
    with _lock:
        if _imported:
            return
        with _collecting_nothing():
            with _compiling_nothing():
                import_module("bitsandbytes")
            import_module(".worker", __package__)
        _imported = True


@contextlib.contextmanager
def _collecting_nothing() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
        atexit.register(gc.unfreeze)  # extension modules report what is never taken down as leaks
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _compiling_nothing() -> Iterator[None]:
    """torch.compile gives functions back as they are; what it is given later it compiles."""
    name = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
