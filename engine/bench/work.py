"""What passes between the command and the stacks' processes: the work, and what each made of it.

Plain dataclasses as JSON; the rows beside them in safetensors. A loss that is not a number travels as null
and comes back as NaN. This module is light (no torch).
"""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ..errors import UserError

LEARNING_RATE = 2e-4
LORA_ALPHA = 16
MAX_GRAD_NORM = 1.0
SEED = 42


class BenchError(UserError):
    """A benchmark that cannot be run as asked; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every stack does alike. Adapters are float32, drawn once; AdamW at a constant rate."""

    shape: str
    device: str
    """`cuda` (bfloat16) or `cpu` (float32)."""
    model: str
    """Folder of the 4-bit base model."""
    adapter: str
    """Folder of the initial adapter, in PEFT's format."""
    rows: str
    """File of the rows (`rows.py`)."""
    bins: int
    """Bins in a step."""
    bin_tokens: int
    """Tokens that a bin holds."""
    real: bool
    """Rows of a file, packed; else each bin is one row of random tokens."""
    warmup: int
    """Steps that are compared but not timed."""
    steps: int
    """Timed steps."""
    rank: int
    recompute: bool
    learning_rate: float = LEARNING_RATE

    @property
    def total_steps(self) -> int:
        return self.warmup + self.steps


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """One step of Evenfall's loop as torch's profiler saw it."""

    launches: int
    """Calls of the host that start kernels or graphs."""
    kernels: int
    """Kernels that ran."""
    syncs: dict[str, int]
    """Call with which the host waited for the GPU -> times. Reading the loss of the step before is one."""
    phases_ms: dict[str, float]
    """What kernels are for -> their time."""
    slowest_ms: dict[str, float]
    """The kernels that took most -> their time."""
    idle_ms: float
    """Between the first kernel and the last, with none at work."""
    gaps_ms: dict[str, float]
    """The kernels that the GPU waited for most -> how long."""


@dataclass(frozen=True, kw_only=True)
class StackResult:
    """What a stack's process measured."""

    stack: str
    device: str
    losses: list[float]
    """Of each step from the first, mean over its trained tokens."""
    grad_norms: list[float]
    """Of each step, before the clip; empty where the stack does not say."""
    trained: list[int]
    """Tokens that each step learnt, as the stack itself batched them; empty where it does not say."""
    seconds: list[float]
    """Of each step."""
    warmup: int
    """Leading steps that are not timed."""
    import_seconds: float
    """From the start of the process to everything imported."""
    load_seconds: float
    first_step_seconds: float
    """From a loaded model to the end of the first step: building, compiling, proving kernels."""
    peak_gb: float
    """Most allocated on the GPU; without one, most resident memory."""
    reserved_gb: float | None
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    matmul_tflops: float | None = None
    """Rate of the shape's largest matmul under load in this process; only Evenfall's measures it."""
    profile: StepProfile | None = None

    @property
    def seconds_to_first_step(self) -> float:
        return self.import_seconds + self.load_seconds + self.first_step_seconds

    @property
    def timed(self) -> list[float]:
        return self.seconds[self.warmup :]


@dataclass(frozen=True)
class StackFailure:
    """A stack that was asked for and gave no result."""

    stack: str
    message: str
    last_lines: list[str] = field(default_factory=list)
    """The end of what its process wrote to stderr."""


def write_work(work: Work, file: Path) -> None:
    file.write_bytes(to_json(work))


def read_work(file: Path) -> Work:
    return Work(**orjson.loads(file.read_bytes()))


def to_json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def read_result(tree: dict[str, Any]) -> StackResult:
    """A StackResult from what `to_json` made of one."""
    tree = {name: tree[name] for name in (f.name for f in dataclasses.fields(StackResult))}
    for name in ("losses", "grad_norms", "seconds"):
        tree[name] = [math.nan if value is None else float(value) for value in tree[name]]
    if tree["profile"] is not None:
        tree["profile"] = StepProfile(**tree["profile"])
    return StackResult(**tree)
