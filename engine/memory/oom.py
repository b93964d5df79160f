"""What an out-of-memory error is: told from any other, taken down, and what it held really freed.

`take_down` belongs inside the `except` block, where the failed frames still hold what they had allocated, and
`free_memory` outside it, where nothing holds it any more.
"""

import gc
import re

import torch

from ..machine.frames import drop_frames
from ..machine.memory import read_memory
from ..run.events import OutOfMemory, Phase

_MESSAGES = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|can't allocate memory",
    re.IGNORECASE,
)


_REQUESTED = re.compile(r"[Tt]ried to allocate ([\d.]+) ([KMG])iB")


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed, on the GPU or the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_MESSAGES.search(str(error)))


def requested_gb(error: BaseException) -> float | None:
    """What the failed allocation asked for, in GB (1e9 bytes), where the message says it."""
    found = _REQUESTED.search(str(error))
    return float(found[1]) * _UNITS[found[2]] / 1e9 if found else None


def free_memory(device: torch.device) -> None:
    """Return to the device what nothing holds any more. Call it outside the `except` block."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def take_down(error: BaseException, phase: Phase, device: torch.device, step: int, before_gb: float) -> OutOfMemory:
    """What happened, taken down while the failed frames still hold their memory, then drop them.

    Call it inside the `except` block; `before_gb` is what was allocated when the phase began.
    """
    text = str(error).strip()
    memory = read_memory(device)
    trouble = OutOfMemory(
        step=step,
        phase=phase,
        message=text.splitlines()[0][:300] if text else type(error).__name__,
        requested_gb=requested_gb(error),
        before_gb=before_gb,
        at_gb=max(memory.now_gb, before_gb),
        after_gb=0.0,
        limit_gb=memory.total_gb,
        rungs=[],
    )
    drop_frames(error)
    return trouble
