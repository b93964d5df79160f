"""A step's figures on their way from the device: sent while the next step is launched, read one step late.

The loop never waits for the GPU: loss and gradient norm stay on the device, are copied to pinned memory, and are read
when the next update is already on its way. What a step took is the time from one reading to the next, without what
happens outside the clock (saving, evaluating).
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..machine.memory import read_memory
from ..run import events as ev
from ..run.progress import LOSS_STEPS
from .state import Run


@dataclass
class _PendingStep:
    """A step whose figures may still be on their way from the device."""

    told: dict[str, Any]
    """Fields of its `ev.Step` that are known already."""
    figures: torch.Tensor
    """float32 [2]: mean loss, gradient norm; pinned where it comes from a GPU."""
    arrived: Any
    """CUDA event to wait for; None on a CPU."""


class LateFigures:
    """The step that is still on its way, if one is, and the clock of the steps."""

    def __init__(self, run: Run) -> None:
        self.skipped = 0
        """Updates in a row whose gradient was not finite."""
        self._run = run
        self._pending: _PendingStep | None = None
        self._mark = time.perf_counter()

    def start_clock(self) -> None:
        """The next step begins now; where one is on its way, when that one is read."""
        if self._pending is None:
            self._mark = time.perf_counter()

    def send(
        self,
        loss: torch.Tensor,
        norm: torch.Tensor,
        *,
        step: int,
        epoch: float,
        learning_rate: float,
        tokens: int,
        trained_tokens: int,
    ) -> None:
        """Take a step's figures without waiting for the device.

        Args:
            loss: mean over the update's trained tokens, [], on the device.
            norm: of the gradient before clipping, [], likewise.
        """
        told = {
            "step": step, "epoch": epoch, "learning_rate": learning_rate, "tokens": tokens,
            "trained_tokens": trained_tokens,
        }  # fmt: skip
        figures = torch.stack([loss.float(), norm.float()])
        if not figures.is_cuda:
            self._pending = _PendingStep(told, figures, None)
            self.settle()
            return
        host = torch.empty(2, dtype=torch.float32, pin_memory=True)
        host.copy_(figures, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._pending = _PendingStep(told, host, arrived)

    def settle(self) -> None:
        """Report the step that is still on its way, if one is."""
        if self._pending is None:
            return
        step = self._read(self._pending)
        self._pending = None
        self.skipped = self.skipped + 1 if step.skipped else 0
        state, control = self._run.state, self._run.control
        state.seconds += step.seconds
        state.first_losses = [*state.first_losses, step.loss][:LOSS_STEPS]
        state.last_losses = [*state.last_losses, step.loss][-LOSS_STEPS:]
        control.emit(replace(step, seconds_so_far=state.seconds))
        if step.skipped:
            control.emit(ev.Alert(f"step {step.step}: gradient not finite, update skipped"))

    @contextlib.contextmanager
    def outside_the_clock(self) -> Iterator[None]:
        """Do what is no part of a step, behind the report of the last one."""
        self.settle()
        yield
        self._mark = time.perf_counter()

    def _read(self, pending: _PendingStep) -> ev.Step:
        if pending.arrived is not None:
            pending.arrived.synchronize()
        now = time.perf_counter()
        loss, norm = pending.figures.tolist()
        memory = read_memory(self._run.trained.device)
        step = ev.Step(
            **pending.told,
            loss=loss,
            grad_norm=norm,
            seconds=now - self._mark,
            memory_gb=memory.now_gb,
            memory_peak_gb=memory.peak_gb,
            memory_total_gb=memory.total_gb,
            skipped=not math.isfinite(norm),
        )
        self._mark = now
        return step
