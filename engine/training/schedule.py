"""Learning-rate schedules that can be changed while a run is on.

A schedule is a pure function of the step, the recipe and the list of changes made so far, so a resumed
run follows the same curve: the list is all that has to be saved.
"""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class RateChange:
    """From `step` on: multiply the schedule by `value` (`scale`) or keep `value` (`hold`)."""

    step: int
    mode: Literal["scale", "hold"]
    value: float


@dataclass(kw_only=True)
class Schedule:
    """Linear warm-up to `peak`, then cosine or linear to zero, or constant.

    The first step of a warm-up already learns (peak / warmup_steps): a step at rate zero would be
    GPU time paid for nothing.
    """

    kind: Literal["cosine", "linear", "constant"]
    peak: float
    warmup_steps: int
    total_steps: int
    changes: list[RateChange] = field(default_factory=list)

    def rate(self, step: int) -> float:
        """The learning rate of the update that follows `step` finished ones."""
        rate = self._base(step)
        for change in self.changes:
            if change.step <= step:
                rate = change.value if change.mode == "hold" else rate * change.value
        return rate

    def change(self, step: int, new: float, mode: Literal["scale", "hold"]) -> float:
        """Make the rate at `step` `new`, and return what it was before.

        `scale` falls back to `hold` where the rate is zero, which no factor can change.
        """
        old = self.rate(step)
        if mode == "hold" or old == 0.0:
            self.changes.append(RateChange(step, "hold", new))
        else:
            self.changes.append(RateChange(step, "scale", new / old))
        return old

    def _base(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        done = min(1.0, done)
        if self.kind == "linear":
            return self.peak * (1.0 - done)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * done))
