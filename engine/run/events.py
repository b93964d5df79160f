"""Events: all that a run tells.

A run's whole story is its events, one JSON object a line in `events.jsonl`. The Train screen, `evenfall watch`, Runs
and the plots draw from the same events, so what is seen live is what is seen later. Commands (`commands.py`) go the
other way; each is answered by an event (`CommandApplied` or `CommandRefused`), so a run that was steered by hand stays
reproducible.

Small frozen dataclasses of plain values. This module is light (no torch).
"""

import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.report.findings import Finding
from ..data.report.report import DataReport
from ..model.patch.part import PatchedPart

State = Literal["idle", "loading", "ready", "training", "paused", "out-of-memory", "failed", "finished"]
Phase = Literal["load", "step", "evaluation"]


@dataclass(frozen=True)
class Event:
    """What every event carries: its number in the run and the time it was made."""

    n: int = field(default=0, kw_only=True)
    """Place in the run's events, from 1; the log gives it."""
    t: float = field(default=0.0, kw_only=True)
    """Seconds since the epoch; the log gives it."""


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A process took up the run, anew or from a checkpoint."""

    run: str
    pid: int
    device: str
    """What trains: `NVIDIA H200`, `CPU (2 cores)`."""
    versions: dict[str, str]
    resumed_from: int | None = None
    """Step of the checkpoint that the run goes on from."""


@dataclass(frozen=True)
class StateChanged(Event):
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Progress(Event):
    """What a long part of the set-up is at."""

    stage: str
    detail: str = ""
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelLoaded(Event):
    name: str
    family: str
    """transformers' `model_type`."""
    parameters: int
    trainable: int
    quantization: str
    compute_dtype: str
    weights_gb: float
    seconds: float
    threads: int | None = None
    """That compute, on a CPU."""
    held: str = ""
    """How much of a 4-bit model is 4-bit, in words; empty of others, and in runs that were made before it was told."""


@dataclass(frozen=True)
class PartsPatched(Event):
    """Which parts run on Evenfall's kernels and which stay stock, each with its proof."""

    parts: list[PatchedPart]


@dataclass(frozen=True, kw_only=True)
class MemoryPlanned(Event):
    """What the layers save for the backward, chosen from the memory that is free."""

    kept: int
    """Layers that save all."""
    cheap: int
    """Layers that compute norms and activations again."""
    recomputed: int
    """Layers that save their input alone."""
    cached: int
    """Layers whose base weights stay dequantised."""
    activations_gb: float
    """Of all layers, at the end of the largest forward."""
    weights_gb: float
    """Of dequantised weights."""


@dataclass(frozen=True, kw_only=True)
class StepCaptured(Event):
    """Micro-steps of one shape run as a CUDA graph from now on."""

    tokens: int
    labels: int
    filled: int
    """Tokens of this one that were filled up."""
    difference: float
    """Of loss and gradients from those of single launches, relative."""


@dataclass(frozen=True)
class DataPrepared(Event):
    data: DataReport
    total_steps: int


@dataclass(frozen=True)
class DataChecked(Event):
    """What the check found in the data, before anything was loaded: the gravest first, none where all is well."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """One optimiser step."""

    step: int
    epoch: float
    loss: float
    """Mean over the update's trained tokens; NaN or infinite where the guard skipped the update."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    trained_tokens: int
    seconds: float
    """Since the step before, pauses, evaluations and saves left out."""
    seconds_so_far: float | None = None
    """`seconds` of the run's steps up to this one, summed; None in logs of versions that did not tell it."""
    memory_gb: float
    """GPU: allocated now. CPU: the process's resident memory."""
    memory_peak_gb: float
    """GPU: most allocated since the run started. CPU: most resident."""
    memory_total_gb: float
    skipped: bool = False
    """The gradient was not finite, so adapter and optimiser were left as they were."""


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    step: int
    loss: float
    """Mean over the held-out trained tokens."""
    rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    step: int
    path: str
    """Relative to the run directory."""
    megabytes: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LearningRateChanged(Event):
    """From the next step on the schedule is scaled so that it passes through `new` here."""

    step: int
    """Steps done when the change took effect."""
    old: float
    new: float
    mode: Literal["scale", "hold"]
    replayed: bool = False
    """Made again by a run that was taken up from a checkpoint older than the change."""


@dataclass(frozen=True)
class CommandApplied(Event):
    command: str
    step: int
    detail: str = ""


@dataclass(frozen=True)
class CommandRefused(Event):
    command: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way out of an out-of-memory error."""

    id: str
    title: str
    effect: str
    """What it does to the result, plainly."""
    changes: dict[str, Any]
    """Configuration keys and their new values."""
    peak_gb: float | None
    """Estimated peak; None where there is nothing to estimate from."""
    speed: float | None
    """Estimated speed relative to now, such as 0.75."""
    keeps_result: bool
    """Nothing but rounding changes: an unattended run may take it."""


@dataclass(frozen=True, kw_only=True)
class OutOfMemory(Event):
    step: int
    """Steps done, all kept."""
    phase: Phase
    message: str
    requested_gb: float | None
    """What the failed allocation asked for."""
    before_gb: float
    """Allocated when the step began."""
    at_gb: float
    """Most allocated before the failure."""
    after_gb: float
    """Allocated once everything that the step held was freed."""
    limit_gb: float
    """What this process may use."""
    rungs: list[Rung]


@dataclass(frozen=True, kw_only=True)
class RecoveryApplied(Event):
    step: int
    rung: str
    title: str
    automatic: bool


@dataclass(frozen=True)
class Alert(Event):
    message: str
    level: Literal["warning", "error"] = "warning"


@dataclass(frozen=True)
class Failed(Event):
    """The run cannot go on. What was saved stays; `resume_step` is where it can be taken up."""

    message: str
    hint: str = ""
    resume_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    reason: Literal["complete", "stopped"]
    step: int
    seconds: float
    """That the run's steps took: `RunProgress.trained_seconds`."""
    tokens: int
    adapter: str | None
    """Folder of the final adapter, relative to the run directory; None where nothing was saved."""
    first_loss: float | None
    """Mean of the losses of the run's first five steps."""
    last_loss: float | None
    """Mean of those of its last five: `RunProgress.loss`."""


AnyEvent = (
    RunStarted
    | StateChanged
    | Progress
    | ModelLoaded
    | PartsPatched
    | DataPrepared
    | DataChecked
    | MemoryPlanned
    | StepCaptured
    | Step
    | Evaluated
    | CheckpointSaved
    | LearningRateChanged
    | CommandApplied
    | CommandRefused
    | OutOfMemory
    | RecoveryApplied
    | Alert
    | Failed
    | Finished
)
EVENT_TYPES: dict[str, type[Event]] = {kind.__name__: kind for kind in typing.get_args(AnyEvent)}
