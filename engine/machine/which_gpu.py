"""Which device a `train.device` means, by a name that other processes know it by. Light: torch is not asked."""

import os
import subprocess
from pathlib import Path

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def device_name(choice: str) -> str:
    """`cpu`, or the GPU that runs of this process take: its UUID, or `GPU 0` where the driver does not tell it.

    Asks the driver, which can take a second.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if visible is None else visible.split(",")[0].strip()
    if choice == "cpu" or first in ("", "-1") or not any(Path(driver).exists() for driver in _DRIVERS):
        return "cpu"
    if not first.isdecimal():  # a UUID, or the start of one
        return next((uuid for uuid in _uuids().values() if uuid.startswith(first)), first)
    return _uuids().get(first, f"GPU {first}")


def _uuids() -> dict[str, str]:
    """Index -> UUID of the GPUs that the driver knows."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.partition(",") for line in answer.stdout.splitlines())
    return {index.strip(): uuid.strip() for index, _, uuid in pairs}
