"""The device that is picked, the dtype it computes in, and what is said of its memory."""

import re

import pytest
import torch

from evenfall.engine.machine import device as module
from evenfall.engine.machine.device import DeviceError, compute_dtype, describe_device, pick_device
from evenfall.engine.machine.memory import host_memory_available, host_memory_limit, read_memory

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu_auto_is_the_cpu(no_cuda):
    assert pick_device("auto") == CPU
    assert pick_device("cpu") == CPU


def test_with_a_gpu_auto_is_the_current_one_and_cpu_stays_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cpu") == CPU


def test_asking_for_cuda_on_a_cpu_build_says_so_and_what_to_set(no_cuda, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(DeviceError) as error:
        pick_device("cuda")
    message = str(error.value)
    assert "build without CUDA" in message and "train.device=cpu" in message


def test_asking_for_cuda_quotes_the_driver(no_cuda, monkeypatch):
    def fail():
        raise RuntimeError("Found no NVIDIA driver on your system. Please check.\nsecond line")

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(DeviceError, match=r"Found no NVIDIA driver .* train\.device=cpu") as error:
        pick_device("cuda")
    assert "\n" not in str(error.value)


def test_a_device_is_described(monkeypatch):
    assert describe_device(CPU) == (
        f"CPU ({torch.get_num_threads()} thread{'' if torch.get_num_threads() == 1 else 's'})"
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert describe_device(CUDA) == "NVIDIA H200"


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)],
)
def test_auto_computes_in_bfloat16_where_the_gpu_does(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert compute_dtype("auto", CUDA) == dtype


def test_auto_is_float32_on_a_cpu_and_a_choice_is_kept():
    assert compute_dtype("auto", CPU) == torch.float32
    for name in ("bfloat16", "float16", "float32"):
        assert compute_dtype(name, CPU) == getattr(torch, name)


def test_memory_of_a_cpu_run_follows_what_it_allocates():
    before = read_memory(CPU)
    block = torch.ones(50_000_000)  # 0.2 GB, written, so resident
    during = read_memory(CPU)
    assert during.now_gb - before.now_gb == pytest.approx(0.2, abs=0.05)
    del block
    after = read_memory(CPU)
    assert after.now_gb < during.now_gb  # given back, and still in the peak
    assert after.peak_gb - before.now_gb > 0.15
    assert after.now_gb < after.total_gb


def test_memory_of_a_gpu_run_is_the_allocators(monkeypatch):
    stats = {"allocated_bytes": {"all": {"current": 3 * 10**9, "peak": 5 * 10**9}}}
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda index: stats)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda index: type("Properties", (), {"total_memory": 80 * 10**9}),
    )
    # A cap on the process (how a smaller card is tried out on a larger one) is the limit that counts.
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 0.3)
    for device in (CUDA, torch.device("cuda")):
        reading = read_memory(device)
        assert (reading.now_gb, reading.peak_gb, reading.total_gb) == (3, 5, pytest.approx(24))
    stats.clear()  # what torch gives before its first tensor on the GPU
    assert (read_memory(CUDA).now_gb, read_memory(CUDA).peak_gb) == (0, 0)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 64 GB with 48 free, and cgroups as a test writes them."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       62500000 kB\nMemAvailable:   46875000 kB\n")
    monkeypatch.setattr(module, "_PROC", proc)
    monkeypatch.setattr(module, "_CGROUP", cgroup)

    def write(membership, files):
        (proc / "self" / "cgroup").write_text(membership)
        for name, text in files.items():
            (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroup / name).write_text(f"{text}\n")

    return write


def test_without_cgroups_the_machines_memory_counts(machine):
    assert host_memory_limit() == 64 * 10**9
    assert host_memory_available() == 48 * 10**9


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
    assert host_memory_limit() == limit
    assert host_memory_available() == available


def test_the_total_on_a_cpu_is_this_machines():
    with open("/proc/meminfo") as file:
        total = int(re.search(r"MemTotal:\s+(\d+) kB", file.read())[1]) * 1024  # type: ignore[index]
    assert 0 < read_memory(CPU).total_gb * 1e9 <= total + 1024
