"""The machine, as the first screen tells of it. Read on a thread: a driver can take a second."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """One GPU, in GB (10^9 bytes)."""

    name: str
    free_gb: float
    total_gb: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run can use here."""

    gpus: tuple[Gpu, ...]
    cpus: int
    memory_gb: float
    disk_free_gb: float
    """On the disk that holds the run directories."""
    multiplexer: bool
    """In tmux or screen."""


def read_machine(output_dir: Path) -> Machine:
    """Ask the driver, the kernel and the disk; what does not answer is left out."""
    from ...engine.machine.host import memory_limit, usable_cores  # psutil, not for the first paint

    return Machine(
        gpus=_gpus(),
        cpus=usable_cores(),
        memory_gb=memory_limit() / 1e9,
        disk_free_gb=disk_free_gb(output_dir),
        multiplexer=bool(os.environ.get("TMUX") or os.environ.get("STY")),
    )


def disk_free_gb(folder: Path) -> float:
    """Free space, in GB, where `folder` is or will be."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9


def _gpus() -> tuple[Gpu, ...]:
    command = [
        "nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"
    ]  # fmt: skip
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in answer.stdout.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 2)]
        if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            found.append(Gpu(parts[0], int(parts[1]) * 2**20 / 1e9, int(parts[2]) * 2**20 / 1e9))
    return tuple(found)


def why_gpu_is_unused() -> str:
    """Why runs would take the CPU though the driver knows a GPU; empty where torch can use it.

    Imports torch: for a job only.
    """
    from ...engine.machine.device import DeviceError, pick_device, why_no_cuda

    try:
        pick_device("cuda")
    except DeviceError:
        return f"there is a GPU, but runs would take the CPU: {why_no_cuda()}"
    return ""
