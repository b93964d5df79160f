"""What this process may use of the host: cores, and main memory within a container's limits."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from evenfall.engine.machine import host
from evenfall.engine.machine.host import memory_available, memory_limit, usable_cores


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 64 GB with 48 free, and cgroups as a test writes them."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    memory = SimpleNamespace(total=64 * 10**9, available=48 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(host, "_PROC", proc)
    monkeypatch.setattr(host, "_CGROUP", cgroup)

    def write(membership, files):
        (proc / "cgroup").write_text(membership)
        for name, text in files.items():
            (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroup / name).write_text(f"{text}\n")

    return write


def test_without_cgroups_the_machines_memory_counts(machine):
    assert memory_limit() == 64 * 10**9
    assert memory_available() == 48 * 10**9


@pytest.mark.parametrize(
    ("membership", "files", "limit", "available"),
    [
        # v2, in a container: the group is mounted as the root, whatever its path is
        (
            "0::/docker/abc\n",
            {"memory.max": 16 * 10**9, "memory.current": 10**9},
            16 * 10**9,
            15 * 10**9,
        ),
        # v2, nested: the parent's limit counts too
        (
            "0::/jobs/1\n",
            {
                "jobs/memory.max": 8 * 10**9,
                "jobs/memory.current": 6 * 10**9,
                "jobs/1/memory.max": 12 * 10**9,
                "jobs/1/memory.current": 10**9,
            },
            8 * 10**9,
            2 * 10**9,
        ),
        # v2 without a limit
        ("0::/\n", {"memory.max": "max", "memory.current": 10**9}, 64 * 10**9, 48 * 10**9),
        # v1, among other controllers
        (
            "5:cpu,cpuacct:/x\n4:memory:/x\n",
            {
                "memory/x/memory.limit_in_bytes": 32 * 10**9,
                "memory/x/memory.usage_in_bytes": 40 * 10**9,
            },
            32 * 10**9,
            0,
        ),
        # v1 without a limit: a number no machine has
        (
            "4:memory:/\n",
            {
                "memory/memory.limit_in_bytes": 9223372036854771712,
                "memory/memory.usage_in_bytes": 10**9,
            },
            64 * 10**9,
            48 * 10**9,
        ),
    ],
)
def test_a_containers_limit_counts_where_it_is_lower(machine, membership, files, limit, available):
    machine(membership, files)
    assert memory_limit() == limit
    assert memory_available() == available


def test_a_process_bound_to_one_core_has_one():
    cores = os.sched_getaffinity(0)
    assert usable_cores() == len(cores)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_a_small_process_that_a_large_one_started_tells_its_own_peak():
    large = bytearray(300_000_000)
    large[::4096] = b"x" * len(large[::4096])  # resident
    code = "from evenfall.engine.machine.host import most_memory_held; print(most_memory_held())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5_000_000 < int(done.stdout) < len(large)
    assert host.most_memory_held() >= len(large)
