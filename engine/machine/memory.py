"""How full memory is: the GPU's as torch's allocator counts it, and the host's.

Memory is read from torch's allocator, which counts what this process asked for without stopping the GPU: the loop can
read it at every step. NVML and `cudaMemGetInfo` see other processes too and cost more, so only `evenfall doctor` asks
them. On a CPU the resident pages of this process are the nearest thing. A GB is 10^9 bytes throughout.
"""

from dataclasses import dataclass

import torch

from . import host


@dataclass(frozen=True)
class MemoryReading:
    """Memory of one device, in GB of 10^9 bytes."""

    now_gb: float
    """In use by this process."""
    peak_gb: float
    """The most it has used: on a GPU since `torch.cuda.reset_peak_memory_stats`, else ever."""
    total_gb: float
    """What this process may use at most."""


def read_memory(device: torch.device) -> MemoryReading:
    """Memory of `device` as this process sees it; does not wait for the GPU.

    On a CPU the total is the machine's, or the container's where that is less.
    """
    if device.type == "cuda":
        # An index, since the last of these calls takes no plain `cuda`.
        index = torch.cuda.current_device() if device.index is None else device.index
        allocated = torch.cuda.memory_stats_as_nested_dict(index).get("allocated_bytes", {})
        amount = allocated.get("all", {"current": 0, "peak": 0})  # empty before the first tensor
        total = torch.cuda.get_device_properties(index).total_memory
        share = torch.cuda.get_per_process_memory_fraction(index)
        return MemoryReading(amount["current"] / 1e9, amount["peak"] / 1e9, total * share / 1e9)
    held, most, limit = host.memory_held(), host.most_memory_held(), host.memory_limit()
    return MemoryReading(held / 1e9, most / 1e9, limit / 1e9)


def free_bytes(device: torch.device) -> tuple[int, int]:
    """What this process may still take on a GPU, and its share of the whole; counts what the
    allocator holds unused."""
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    allocated = torch.cuda.memory_allocated(index)
    share = int(total * torch.cuda.get_per_process_memory_fraction(index))
    return min(free + torch.cuda.memory_reserved(index) - allocated, share - allocated), share
