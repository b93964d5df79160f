"""History: a run's steps as columns of numbers, kept up as steps come, for the plots."""

import math
from collections.abc import Sequence

from ...engine.run.events import Step

SMOOTHING = 0.1
"""Weight of a new loss in the smoothed one."""


class History:
    """Columns of equal length; NaN where a step has no such number."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.steps: list[float] = []
        self.loss: list[float] = []
        self.smooth: list[float] = []
        self.rate: list[float] = []
        """Tokens a second."""
        self.memory: list[float] = []
        """GB."""
        self.lost: list[float] = []
        """Steps whose loss was not finite."""
        self._mean: float | None = None
        self._last: Step | None = None

    def follow(self, steps: Sequence[Step]) -> None:
        """Take in what is new in `steps`; begin anew where steps were taken back (a resumed run)."""
        done = len(self.steps)
        if done and (len(steps) < done or steps[done - 1] is not self._last):
            self._clear()
            done = 0
        for step in steps[done:]:
            self._add(step)

    def _add(self, step: Step) -> None:
        self._last = step
        self.steps.append(float(step.step))
        loss = step.loss if math.isfinite(step.loss) else math.nan
        if math.isnan(loss):
            self.lost.append(float(step.step))
        elif self._mean is None:
            self._mean = loss
        else:
            self._mean += SMOOTHING * (loss - self._mean)
        self.loss.append(loss)
        self.smooth.append(math.nan if self._mean is None else self._mean)
        self.rate.append(step.tokens / step.seconds if step.seconds > 0 else math.nan)
        self.memory.append(step.memory_gb)
