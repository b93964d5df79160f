"""The device that is picked, the dtype it computes in, and what is said of its memory."""

import pytest
import torch

from evenfall.engine.machine import device as module
from evenfall.engine.machine.device import DeviceError, compute_dtype, describe_device, pick_device
from evenfall.engine.machine.memory import read_memory

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
    for cores, words in ((1, "CPU (1 core)"), (2, "CPU (2 cores)")):
        monkeypatch.setattr(module, "usable_cores", lambda cores=cores: cores)
        assert describe_device(CPU) == words
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
