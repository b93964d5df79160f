"""Importing the heavy libraries, which is most of the time to a run's first step.

Spends nothing on what a run does not need; what is left is the libraries' own, and
`tests/benchmarks/first_step.py --imports` shows it. This module is light.

* No garbage is collected meanwhile. To look through all that has been imported again and again takes
  a fifth of the time, for some 10 MB. Afterwards it is set aside for good (`gc.freeze`), so that the
  collections which free a failed step's memory look only at what came since.
* bitsandbytes hands four functions, written for devices that it has no kernels for, to torch.compile
  while it is imported, and torch then imports its whole compiler.
"""

import atexit
import contextlib
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module

_lock = threading.Lock()


def import_torch() -> None:
    """Import torch and bitsandbytes, which come first. Later calls return at once."""
    _import("bitsandbytes", _compiling_nothing)


def import_without(hidden: str, name: str) -> None:
    """Import a module of ours and all that it stands on, as if a package was not installed. Later calls return
    at once."""
    _import(name, lambda: _without(hidden))


def _import(name: str, way: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    with _lock:  # threads that import the same libraries crosswise can see them half made
        if name not in sys.modules:
            with _collecting_nothing(), way():
                import_module(name)


@contextlib.contextmanager
def _collecting_nothing() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
        atexit.register(gc.unfreeze)  # Triton reports what is not taken down at the end as leaks
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """The package looks as if it was not installed."""
    hide = name not in sys.modules
    if hide:
        sys.modules[name] = None  # type: ignore[assignment] - Python's own way to say so
    try:
        yield
    finally:
        if hide:
            del sys.modules[name]


@contextlib.contextmanager
def _compiling_nothing() -> Iterator[None]:
    """torch.compile gives functions back as they are; what it is given afterwards it compiles."""
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
