"""A step's figures on their way from the device: sent while the next step is launched, read one step late."""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..machine.memory import read_memory
from ..run import events as ev


@dataclass
class PendingStep:
    """A step whose figures may still be on their way from the device."""

    event: ev.Step
    figures: torch.Tensor
    """float32 [2]: mean loss, gradient norm; pinned where it comes from a GPU."""
    arrived: Any
    """CUDA event to wait for; None on a CPU."""


def send_figures(event: ev.Step, loss: torch.Tensor, norm: torch.Tensor) -> PendingStep:
    figures = torch.stack([loss.float(), norm.float()])
    if not figures.is_cuda:
        return PendingStep(event, figures, None)
    host = torch.empty(2, dtype=torch.float32, pin_memory=True)
    host.copy_(figures, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return PendingStep(event, host, arrived)


def read_figures(pending: PendingStep, device: torch.device, mark: float) -> tuple[ev.Step, float]:
    if pending.arrived is not None:
        pending.arrived.synchronize()
    now = time.perf_counter()
    loss, norm = pending.figures.tolist()
    memory = read_memory(device)
    step = replace(
        pending.event,
        loss=loss,
        grad_norm=norm,
        seconds=now - mark,
        memory_gb=memory.now_gb,
        memory_peak_gb=memory.peak_gb,
        memory_total_gb=memory.total_gb,
        skipped=not math.isfinite(norm),
    )
    return step, now
