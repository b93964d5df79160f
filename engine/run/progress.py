"""RunProgress: a run's events folded into what a viewer shows.

One reducer serves the live Train screen, `evenfall watch`, the Runs list, the plain progress lines and
the plots. A resumed run may repeat steps that were done after its last checkpoint: the later
record of a step replaces the earlier one and all that followed it.

What a viewer says of a run as a whole has one definition each, here, so that two lists cannot differ:

- its state: `shown_state`. How it ended is what its last process said (`ending`); a run that said
  nothing and that no process holds was interrupted.
- its loss: `loss`, the mean of its last five losses. One step's loss jumps with the rows that it
  happened to get, and an exponential mean lags behind by an amount that depends on where it began; a
  short mean of like steps is what two runs are compared by.
- its evaluation loss: that of its last evaluation.
- its time: `trained_seconds`, the time that its steps took. Loading, saving, evaluations, pauses and
  the time between two processes say nothing of the training, and differ each time.
"""

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ..data.report.report import DataReport
from . import events as ev

LOSS_STEPS = 5
"""Losses that a run's loss is the mean of."""

Ending = Literal["finished", "stopped", "failed", "out-of-memory"]
"""How a run ended: at its last step, when asked to, by an error, or because memory ran out."""

ShownState = Literal[
    "new", "loading", "ready", "training", "paused", "waiting", "interrupted", Ending
]  # fmt: skip
"""A run's state in every list, card and screen. `new`: never begun; `waiting`: memory ran out, and it
waits for an answer; `interrupted`: no process trains it, and the last one did not say that it ended."""

_LIVE: dict[ev.State, ShownState] = {
    "idle": "loading", "loading": "loading", "ready": "ready", "training": "training",
    "paused": "paused", "out-of-memory": "waiting",
}  # fmt: skip


def mean_loss(losses: Iterable[float]) -> float | None:
    """Mean of the losses that are numbers (a skipped update's is not); None where none is."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else None


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
    def loss(self) -> float | None:
        """The run's loss: the mean over its last five steps so far, skipped updates (NaN, infinite)
        among them left out; None before there is one. At the end it is `Finished.last_loss`."""
        return mean_loss(step.loss for step in self.steps[-LOSS_STEPS:])

    @property
    def evaluation(self) -> ev.Evaluated | None:
        """The last evaluation: its loss is the run's evaluation loss."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def trained_seconds(self) -> float | None:
        """The run's time: seconds that its steps took, loading, saves, evaluations and pauses left
        out, steps that a resumed run did once more counted once; None before the first step. At the
        end it is `Finished.seconds`."""
        if not self.steps:
            return None
        told = self.steps[-1].seconds_so_far
        return sum(step.seconds for step in self.steps) if told is None else told

    @property
    def ending(self) -> Ending | None:
        """How the run ended, if its last process said so."""
        if self.failed is not None or self.state == "failed":
            return "out-of-memory" if self.state == "out-of-memory" else "failed"
        if self.finished is not None or self.state == "finished":
            stopped = self.finished is not None and self.finished.reason == "stopped"
            return "stopped" if stopped else "finished"
        return None

    def shown_state(self, *, live: bool) -> ShownState:
        """The run's state, as every viewer shows it.

        Args:
            live: a process holds the run now.
        """
        if self.ending:
            return self.ending
        if live:
            return _LIVE.get(self.state, "training")  # a later version may know more states
        return "new" if self.started is None and self.state == "idle" else "interrupted"

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
                if event.state == "loading":  # another process has taken it up
                    self.failed = self.finished = None
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
                if event.rung == "rank":  # a new adapter: what the old one learnt is gone
                    self._forget_after(0)
                    self.checkpoints = []
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
