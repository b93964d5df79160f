"""What the loop works on, shared by the modules that act on a run between two updates."""

from dataclasses import dataclass, field
from typing import Literal

from ..config.run_config import RunConfig
from ..data.prepare.prepare import PreparedData
from ..errors import UserError
from ..memory.fit import fit_memory
from ..memory.plan import MARGIN, MemoryPlan
from ..model.trained import TrainedModel
from ..run.control import Control
from ..run.directory import RunDirectory
from ..run.events import MemoryPlanned, State
from .optimizer import FlatAdamW
from .schedule import RateChange

Ending = Literal["stopped", "abandoned", "restart"]
"""Why a loop ends before its last step: asked to stop, with or without saving, or to begin again."""


class TrainingError(UserError):
    """Training cannot go on; `hint` says what to try, `state` is how the run ends."""

    state: State = "failed"


class OutOfMemoryEnd(TrainingError):
    """Memory ran out and nobody could answer."""

    state: State = "out-of-memory"


@dataclass(kw_only=True)
class LoopState:
    """Where the loop is, between two updates. A checkpoint holds just this, as JSON."""

    step: int = 0
    """Optimiser steps done."""
    epoch: int = 0
    window: int = 0
    """Of this epoch: the windows before it are done."""
    position: int = 0
    """Bins of this window's order that are done."""
    bins_done: int = 0
    """Bins of this epoch that are done."""
    packed_length: int = 0
    """data.max_length when the rows were packed; a recovery may cut rows shorter afterwards."""
    bins_per_update: int = 0
    """Fixed at the start: a recovery that halves the batch doubles the accumulation."""
    memory_margin: float = MARGIN
    """Part of the GPU's memory that no memory plan spends; a recovery widens it."""
    data: str = ""
    """Fingerprint of the data; empty in a checkpoint that was written before it was kept."""
    tokens: int = 0
    seconds: float = 0.0
    rate_changes: list[RateChange] = field(default_factory=list)
    first_losses: list[float] = field(default_factory=list)
    last_losses: list[float] = field(default_factory=list)


@dataclass(kw_only=True)
class Run:
    """A run in its worker: what is trained, on what, and how far it is."""

    directory: RunDirectory
    config: RunConfig
    control: Control
    trained: TrainedModel
    optimizer: FlatAdamW
    data: PreparedData
    state: LoopState
    plan: MemoryPlan | None = None
    """What the layers save; None where nothing is planned: on a CPU, and for stock layers."""

    def fit_memory(self) -> None:
        """Plan anew what the layers save, by the configuration and the memory that is free now."""
        self.plan = fit_memory(self.trained, self.config, self.state.memory_margin)
        if self.plan is not None:
            self.control.emit(
                MemoryPlanned(
                    kept=self.plan.kept,
                    cheap=self.plan.cheap,
                    recomputed=self.plan.recomputed,
                    cached=self.plan.cached,
                    activations_gb=self.plan.activations / 1e9,
                    weights_gb=self.plan.weights / 1e9,
                )
            )
