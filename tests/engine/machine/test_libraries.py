"""The heavy libraries are imported once, without what no run needs, and leave the process as it was."""

import atexit
import gc
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from evenfall.engine.machine import libraries
from evenfall.engine.session import imports

NEEDLESS = (
    "torch._inductor.compile_fx", "networkx", "datasets", "pandas", "pyarrow", "trl", "textual",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_frozen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is alive in the test process stays the collector's; says what would have been done."""
    done: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: done.append("freeze"))
    monkeypatch.setattr(atexit, "register", lambda function: done.append(function.__name__))
    return done


def test_importing_the_engine():
    code = f"""
import gc, os, sys
from evenfall.engine.session.imports import import_engine
print([name for name in ("torch", "bitsandbytes", "peft") if name in sys.modules])
import_engine()
print([name for name in {NEEDLESS!r} if name in sys.modules])
print(gc.isenabled(), gc.get_freeze_count() > 100_000, os.environ.get("TORCHDYNAMO_DISABLE"))
import torch
graphs = []
def backend(graph, _):
    graphs.append(graph)
    return graph.forward
compiled = torch.compile(lambda x: 2 * x, backend=backend)
print(compiled(torch.ones(1)).item(), len(graphs))
frozen = gc.get_freeze_count()
import_engine()
print(gc.get_freeze_count() <= frozen)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "True True None", "2.0 1", "True"]
    assert "leaked" not in done.stderr


def test_a_second_thread_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.3)\ndone = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen = []

    def bring() -> None:
        libraries._import("slow_to_import", nullcontext)
        seen.append(getattr(sys.modules["slow_to_import"], "done", False))

    threads = [threading.Thread(target=bring) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 3


def test_the_collector_goes_on_as_before(nothing_frozen: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gc, "isenabled", lambda: False)
    calls = []
    monkeypatch.setattr(gc, "enable", lambda: calls.append("enable"))
    monkeypatch.setattr(gc, "disable", lambda: calls.append("disable"))
    with libraries._collecting_nothing():
        assert calls == ["disable"]
    assert calls == ["disable"]
    assert nothing_frozen == ["freeze", "unfreeze"]


def test_an_import_that_fails_freezes_nothing(nothing_frozen: list[str]):
    with pytest.raises(ModuleNotFoundError):
        libraries._import("no_such_module_anywhere", nullcontext)
    assert gc.isenabled()
    assert nothing_frozen == []


def test_scikit_learn_is_not_seen_by_what_is_imported(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.delitem(sys.modules, "evenfall.engine.training.worker", raising=False)
    monkeypatch.setattr(libraries, "import_module", lambda name: seen.append((name, "sklearn" in sys.modules)))
    monkeypatch.setattr(imports, "import_torch", lambda: None)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    imports.import_engine()
    assert seen == [("evenfall.engine.training.worker", True)] and "sklearn" not in sys.modules


def test_a_package_that_no_run_needs_looks_as_if_it_was_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "needless_here.py").write_text("there = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with libraries._without("needless_here"):
        assert find_spec("needless_here") is None
        with pytest.raises(ModuleNotFoundError):
            import_module("needless_here")
    imported = import_module("needless_here")
    with libraries._without("needless_here"):  # somebody has it already
        assert sys.modules["needless_here"] is imported
    assert import_module("needless_here") is imported


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_what_the_user_said_of_the_compiler_stands(before: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    if before is not None:
        monkeypatch.setenv("TORCHDYNAMO_DISABLE", before)
    with pytest.raises(ValueError), libraries._compiling_nothing():
        assert os.environ["TORCHDYNAMO_DISABLE"] == "1"
        raise ValueError
    assert os.environ.get("TORCHDYNAMO_DISABLE") == before
