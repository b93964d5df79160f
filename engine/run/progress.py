"""RunProgress: a run's events folded into what a viewer shows.

One reducer serves the live Train screen, `evenfall watch`, the Runs list, the plain progress lines and
the plots. A resumed run may repeat steps that were done after its last checkpoint: the later
record of a step replaces the earlier one and all that followed it.
"""

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..data.report.report import DataReport
from . import events as ev


@dataclass(kw_only=True)
class RunProgress:
    """The state of one run after the events applied so far."""

    state: ev.State = "idle"
    reason: str = ""
    started: ev.RunStarted | None = None
    stage: ev.Progress | None = None
    model: ev.ModelLoaded | None = None
    parts: ev.PartsPatched | None = None
    data: DataReport | None = None
    total_steps: int | None = None
    steps: list[ev.Step] = field(default_factory=list)
    evaluations: list[ev.Evaluated] = field(default_factory=list)
    checkpoints: list[ev.CheckpointSaved] = field(default_factory=list)
    rate_changes: list[ev.LearningRateChanged] = field(default_factory=list)
    alerts: list[ev.Alert] = field(default_factory=list)
    out_of_memory: ev.OutOfMemory | None = None
    """Set while a run waits for an answer."""
    recoveries: list[ev.RecoveryApplied] = field(default_factory=list)
    failed: ev.Failed | None = None
    finished: ev.Finished | None = None
    last_event: int = 0
    last_time: float = 0.0

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.steps[-1].step if self.steps else self._resumed_from

    @property
    def _resumed_from(self) -> int:
        return (self.started.resumed_from or 0) if self.started else 0

    @property
    def tokens_per_second(self) -> float | None:
        """Over the last ten steps; the first step of a process, which warms up, is left out."""
        recent = [step for step in self.steps[-10:] if step.seconds > 0]
        if len(recent) > 1:
            recent = recent[-min(len(recent), len(self.steps) - 1) :]
        seconds = sum(step.seconds for step in recent)
        return sum(step.tokens for step in recent) / seconds if seconds else None

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last ten steps; None before there is one."""
        recent = [step.seconds for step in self.steps[-10:]]
        if not recent or self.total_steps is None:
            return None
        return max(0, self.total_steps - self.step) * sum(recent) / len(recent)

    @property
    def smoothed_loss(self) -> float | None:
        """Exponential mean of the losses with weight 0.1, skipped steps (NaN, infinite) left out."""
        mean = None
        for step in self.steps[-100:]:
            if math.isfinite(step.loss):
                mean = step.loss if mean is None else 0.9 * mean + 0.1 * step.loss
        return mean

    def apply_all(self, events: Iterable[ev.Event]) -> None:
        for event in events:
            self.apply(event)

    def apply(self, event: ev.Event) -> None:
        """Take in the next event."""
        self.last_event, self.last_time = event.n, event.t
        match event:
            case ev.RunStarted():
                self.started = event
                self.failed = self.finished = self.out_of_memory = None
                if event.resumed_from is not None:
                    self._forget_after(event.resumed_from)
            case ev.StateChanged():
                self.state, self.reason = event.state, event.reason
                if event.state != "out-of-memory":
                    self.out_of_memory = None
            case ev.Progress():
                self.stage = event
            case ev.ModelLoaded():
                self.model = event
            case ev.PartsPatched():
                self.parts = event
            case ev.DataPrepared():
                self.data, self.total_steps = event.data, event.total_steps
            case ev.Step():
                if self.steps and event.step <= self.steps[-1].step:
                    self._forget_after(event.step - 1)
                self.steps.append(event)
            case ev.Evaluated():
                self.evaluations.append(event)
            case ev.CheckpointSaved():
                self.checkpoints = [c for c in self.checkpoints if c.step != event.step]
                self.checkpoints.append(event)
            case ev.LearningRateChanged():
                self.rate_changes.append(event)
            case ev.OutOfMemory():
                self.out_of_memory = event
            case ev.RecoveryApplied():
                self.recoveries.append(event)
                self.out_of_memory = None
            case ev.Alert():
                self.alerts.append(event)
            case ev.Failed():
                self.failed = event
                self.out_of_memory = None  # there is nobody left who waits for an answer
            case ev.Finished():
                self.finished = event

    def _forget_after(self, step: int) -> None:
        del self.steps[bisect.bisect_right(self.steps, step, key=lambda done: done.step) :]
        self.evaluations = [done for done in self.evaluations if done.step <= step]
        self.rate_changes = [done for done in self.rate_changes if done.step <= step]
