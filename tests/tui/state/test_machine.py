"""The machine, as the first screen tells of it."""

from pathlib import Path

import pytest

from evenfall.engine.machine import host
from evenfall.tui.state.machine import read_machine


def test_memory_and_cores_are_what_a_run_may_use_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "memory_limit", lambda: 16 * 10**9)  # a container's
    monkeypatch.setattr(host, "usable_cores", lambda: 3)
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    facts = read_machine(tmp_path / "runs" / "of-later")
    assert (facts.memory_gb, facts.cpus, facts.gpus) == (16, 3, ())
    assert facts.disk_free_gb > 0
