"""Commands: what a run can be told, from its screens or from any terminal.

A command takes effect between two updates and leaves an event: applied, or refused and why.
"""

from dataclasses import dataclass
from typing import Literal

RateMode = Literal["scale", "hold"]
"""How a learning rate is changed; see `SetLearningRate`."""


@dataclass(frozen=True)
class Pause:
    """Wait before the next step, GPU memory kept."""


@dataclass(frozen=True)
class Resume:
    """Go on after a pause."""


@dataclass(frozen=True)
class SaveNow:
    """Write a checkpoint after this step."""


@dataclass(frozen=True)
class EvaluateNow:
    """Evaluate on the held-out rows after this step."""


@dataclass(frozen=True)
class SetLearningRate:
    """`scale`: multiply the rest of the schedule; `hold`: keep the value to the end."""

    value: float
    mode: RateMode = "scale"


@dataclass(frozen=True)
class Stop:
    """End after this step. With `save`, a checkpoint and the adapter are written first."""

    save: bool = True


@dataclass(frozen=True)
class ApplyRecovery:
    """Answer an out-of-memory error with one of its rungs; the run goes on from the same step."""

    rung: str


Command = Pause | Resume | SaveNow | EvaluateNow | SetLearningRate | Stop | ApplyRecovery
