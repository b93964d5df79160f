"""How full memory is: the GPU's as torch's allocator counts it, and the host's.

Memory is read from torch's allocator, which counts what this process asked for without stopping the GPU: the loop can
read it at every step. NVML and `cudaMemGetInfo` see other processes too and cost more, so only `evenfall doctor` asks
them. On a CPU the resident pages of this process are the nearest thing. A GB is 10^9 bytes throughout.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

_PROC = Path("/proc")


_CGROUP = Path("/sys/fs/cgroup")


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

    On a CPU it reads Linux's /proc; the total is the machine's, or the container's where that is less.
    """
    if device.type == "cuda":
        # An index, since the last of these calls takes no plain `cuda`.
        index = torch.cuda.current_device() if device.index is None else device.index
        allocated = torch.cuda.memory_stats_as_nested_dict(index).get("allocated_bytes", {})
        amount = allocated.get("all", {"current": 0, "peak": 0})  # empty before the first tensor
        total = torch.cuda.get_device_properties(index).total_memory
        share = torch.cuda.get_per_process_memory_fraction(index)
        return MemoryReading(amount["current"] / 1e9, amount["peak"] / 1e9, total * share / 1e9)
    status = _kilobytes(_PROC / "self" / "status")
    return MemoryReading(status["VmRSS"] / 1e6, status["VmHWM"] / 1e6, host_memory_limit() / 1e9)


def free_bytes(device: torch.device) -> tuple[int, int]:
    """What this process may still take on a GPU, and its share of the whole; counts what the
    allocator holds unused."""
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    allocated = torch.cuda.memory_allocated(index)
    share = int(total * torch.cuda.get_per_process_memory_fraction(index))
    return min(free + torch.cuda.memory_reserved(index) - allocated, share - allocated), share


def host_memory_limit() -> int:
    """Bytes of main memory that this process may use: the machine's, or its cgroup's if less."""
    total = int(_kilobytes(_PROC / "meminfo")["MemTotal"] * 1000)
    return min([total, *(limit for limit, _ in _cgroup_limits())])


def host_memory_available() -> int:
    """Bytes of main memory that this process can still get: what is free here and in its cgroup.

    A cgroup counts cached file pages as used, though it drops them when asked for memory, so within
    a container this can be too low, never too high.
    """
    free = int(_kilobytes(_PROC / "meminfo")["MemAvailable"] * 1000)
    return max(0, min([free, *(limit - used for limit, used in _cgroup_limits())]))


def _kilobytes(file: Path) -> dict[str, float]:
    """Lines such as `VmRSS:  1234 kB`, in kB of 1,000 bytes (the kernel's kB is 1,024)."""
    found = {}
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[key] = int(value.split()[0]) * 1.024
    return found


def _cgroup_limits() -> list[tuple[int, int]]:
    """(limit, used) in bytes of each cgroup above this process that limits memory, v1 or v2.

    A container usually sees its own group mounted as the root, under another path than /proc names;
    so the walk goes up from that path and passes over what is not there.
    """
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:  # no /proc, or a kernel without cgroups: nothing limits us that we could read
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = _CGROUP, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = _CGROUP / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = root.joinpath(*parts[:depth])
            try:
                # No limit is `max` (v2) or a number beyond any machine's memory (v1).
                found.append(tuple(int((folder / name).read_text()) for name in names))
            except (OSError, ValueError):
                continue
    return found
