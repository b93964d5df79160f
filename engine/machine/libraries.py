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
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_lock = threading.Lock()
_running = threading.RLock()


def import_torch() -> None:
    """Import torch and bitsandbytes, which come first. Later calls return at once."""
    _import("bitsandbytes", _compiling_nothing)


def import_light(name: str) -> None:
    """Import a module of ours that stands on transformers and not on torch, though transformers names torch in files
    that its tokenizers stand on: torch is imported when it is first asked for something. For a process of one
    thread. Later calls return at once."""
    _import(name, _torch_later)


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
def _torch_later() -> Iterator[None]:
    spec = None if "torch" in sys.modules else find_spec("torch")
    if spec is not None:
        module = module_from_spec(spec)
        module.__class__ = _Later
        del module.__path__  # so that a part of it asks for it, and it is there first
        sys.modules["torch"] = module
    yield


class _Later(ModuleType):
    """A package that runs when it is first asked for something that is in it. (`importlib.util.LazyLoader`'s runs
    with the second `import` of it.)"""

    def __getattr__(self, name: str) -> Any:
        with _running:  # by another thread: what is not there yet is waited for
            if type(self) is _Later and "__path__" not in vars(self):
                self._run()
        return ModuleType.__getattribute__(self, name)

    def _run(self) -> None:
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        self.__path__ = spec.submodule_search_locations or []
        try:
            spec.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(self.__name__, None)
            raise
        self.__class__ = ModuleType  # type: ignore[assignment]


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
