"""What the GPU is at in a step, and how fast it multiplies.

torch's profiler records each kernel and each call of the CUDA runtime. Kernels say by their names what they
are for; the names are those of cuBLAS, cuDNN, FlashAttention, torch and this project.
"""

import itertools
import math
import re
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from .shapes import ModelShape
from .work import StepProfile

if TYPE_CHECKING:
    import torch

_PHASES = (
    ("loss head", r"cross_entropy|nll_loss|log_?softmax"),
    ("attention", r"flash|fmha|mha_|sdpa|attention|cudnn"),
    ("dequantise", r"dequant|nf4"),
    ("optimiser", r"adam|multi_tensor|_squares_kernel|_prepare_kernel|_update_kernel"),
    ("norm, rope, glu", r"rms_norm|rope|glu"),
    ("matmuls", r"nvjet|gemm|gemv|cutlass|cublas|split_?k|xmma|wgmma|s\d+816"),
    ("copies", r"memcpy|memset|copy|catarray"),
)
"""Phase and what a kernel's name holds, looked for in this order: attention has matmuls in its names too."""

_LAUNCH = re.compile(r"cu(da)?(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)")
_SYNC = re.compile(r"cu(da)?(Stream|Device|Event|Ctx)Synchronize|cudaMemcpy$|cuMemcpyDtoH(_v2)?$")
_RANGE = "evenfall bench step"


def phase_of(kernel: str) -> str:
    """What a kernel is for, by its name."""
    name = kernel.lower()
    return next((phase for phase, pattern in _PHASES if re.search(pattern, name)), "other")


class StepProfiler:
    """Records from its making to `stop()`; the GPU is idle at both ends."""

    def __init__(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile, record_function

        torch.cuda.synchronize()
        self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
        self._profile.start()
        self._range = record_function(_RANGE)
        self._range.__enter__()

    def stop(self) -> StepProfile:
        # The profiler waits for the GPU when it stops: that wait lies outside of the range.
        self._range.__exit__(None, None, None)
        self._profile.stop()
        return summarise(self._profile.events() or [])


def summarise(events: Any) -> StepProfile:
    """Counts and times of the profiler's events."""
    from torch._C._autograd import DeviceType

    ranges = [e for e in events if e.name == _RANGE and e.device_type == DeviceType.CPU]
    start, end = ranges[0].time_range.start, ranges[0].time_range.end
    launches, kernels = 0, 0
    syncs: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    each: Counter[str] = Counter()
    ran: list[tuple[float, float, str]] = []
    for event in events:
        if event.device_type == DeviceType.CPU:
            if start <= event.time_range.start <= end:
                launches += bool(_LAUNCH.match(event.name))
                if _SYNC.match(event.name):
                    syncs[event.name] += 1
        elif event.name != _RANGE and not event.name.endswith(" Sync"):
            ms = event.time_range.elapsed_us() / 1e3
            phases[phase_of(event.name)] += ms  # type: ignore[assignment]
            each[event.name[:120]] += ms  # type: ignore[assignment]
            ran.append((event.time_range.start, event.time_range.end, event.name[:120]))
            kernels += not event.name.startswith(("Memcpy", "Memset"))
    gaps = _gaps(ran)
    return StepProfile(
        launches=launches,
        kernels=kernels,
        syncs=dict(syncs),
        phases_ms=dict(phases.most_common()),
        slowest_ms=dict(each.most_common(20)),
        idle_ms=sum(gaps.values()),
        gaps_ms=dict(gaps.most_common(10)),
    )


def _gaps(ran: list[tuple[float, float, str]]) -> "Counter[str]":
    """Milliseconds in which nothing ran, by what ran next; of (start, end, name) in microseconds."""
    gaps: Counter[str] = Counter()
    latest = math.inf
    for start, end, name in sorted(ran):
        if start > latest:
            gaps[name] += (start - latest) / 1e3  # type: ignore[assignment]
        latest = end if latest == math.inf else max(latest, end)
    return gaps


def measure_matmul(shape: ModelShape, tokens: int, device: "torch.device", *, under_load: float = 1.0) -> float:
    """TFLOP/s of [tokens, hidden] x [intermediate, hidden]^T on random data: the median of 20 calls.

    Args:
        under_load: seconds of the same before: what a GPU does in a short burst it cannot keep up where
            its power is limited, and a step must.
    """
    import torch

    from ..machine.device import compute_dtype

    dtype = compute_dtype("auto", device)
    x = torch.randn(tokens, shape.hidden, device=device, dtype=dtype)
    weight = torch.randn(shape.intermediate, shape.hidden, device=device, dtype=dtype)
    out = x.new_empty(tokens, shape.intermediate)

    def seconds() -> list[float]:
        """Of each of 20 calls."""
        if device.type == "cpu":
            marks = [time.perf_counter()]
            for _ in range(20):
                torch.mm(x, weight.t(), out=out)
                marks.append(time.perf_counter())
            return [after - before for before, after in itertools.pairwise(marks)]
        events = [torch.cuda.Event(enable_timing=True) for _ in range(21)]
        events[0].record()
        for event in events[1:]:  # without a pause between them
            torch.mm(x, weight.t(), out=out)
            event.record()
        events[-1].synchronize()
        pairs = itertools.pairwise(events)
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]

    seconds()
    end = time.perf_counter() + under_load
    while time.perf_counter() < end:
        seconds()
    return 2 * tokens * weight.numel() / statistics.median(seconds()) / 1e12
