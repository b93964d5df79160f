"""Do the ops that models are made of give the right numbers on this very device?

`run_selftest` runs each op of the table below, forward and backward, and judges every tensor as
``accuracy.py`` says. `evenfall doctor` calls it with the small default shapes (it compiles every
kernel once for each dtype, some seconds in all), ``tests/gpu/kernels_gpu.py`` with the shapes of
real models. A new op needs one entry in `OPS`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .accuracy import Part, compare
from .backend import KERNEL_DTYPES, triton_runs_on
from .glu import geglu, geglu_reference, swiglu, swiglu_reference
from .rms_norm import rms_norm, rms_norm_reference
from .rope import rope, rope_reference

log = logging.getLogger(__name__)

SHAPES = ((3, 8), (123, 507), (64, 4096))
"""Rows and columns: tiny, odd, and a real hidden size."""

_EPS = 1e-6


@dataclass(frozen=True)
class Op:
    """One row of the table: the public function, its reference, and the operands they take."""

    fast: Part
    reference: Part
    operands: Callable[[int, int], Mapping[str, tuple[int, ...]]]
    """Rows and columns to the shape of each operand, by name."""


@dataclass(frozen=True, kw_only=True)
class OpResult:
    """One tensor of one op: relative RMS errors against float64, and the verdict.

    `tensor` is "out" or "grad NAME"; `dtype` is torch's name ("bfloat16"). Where the op did not run
    at all, `error` is inf, `eager_error` is nan and `problem` is the message; otherwise `problem`
    is empty.
    """

    op: str
    tensor: str
    dtype: str
    shape: tuple[int, int]
    error: float
    eager_error: float
    passed: bool
    problem: str = ""


def _norm_operands(rows: int, columns: int) -> Mapping[str, tuple[int, ...]]:
    return {"x": (rows, columns), "weight": (columns,)}


def _pair(rows: int, columns: int) -> Mapping[str, tuple[int, ...]]:
    return {"gate": (rows, columns), "up": (rows, columns)}


def _head_size(columns: int) -> int:
    """At most 128, with at least four heads; the same for whole heads as for what they were cut
    from."""
    return max(2, min(128, columns // 4))


def _heads(rows: int, columns: int) -> Mapping[str, tuple[int, ...]]:
    """Four or five heads of q, or more of the usual size, and one head of k to every four."""
    size = _head_size(columns)
    heads = columns // size
    return {"q": (rows, heads * size), "k": (rows, max(1, heads // 4) * size)}


def _rope_part(turn: Callable[..., tuple[Tensor, Tensor]], share: float, dtype: torch.dtype, interleaved: bool) -> Part:
    """`rope` or its reference as a part, on the first `share` of each head, with cos and sin in
    `dtype`.

    Each row's position is read off its own first value: a part must act on a row alike, whichever
    rows it is judged with and in whichever dtype.
    """

    def part(q: Tensor, k: Tensor) -> Tensor:
        size = _head_size(q.shape[1])
        pairs = max(1, int(size * share) // 2)
        with torch.no_grad():
            position = q[:, :1].float() * 1000
            slowing = torch.arange(pairs, device=q.device, dtype=torch.float32) / pairs
            angles = (position * 10000.0**-slowing).repeat(1, 2)
            cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        heads = (x.view(len(x), -1, size) for x in (q, k))
        turned = turn(*heads, cos, sin, interleaved=interleaved)
        return torch.cat([x.flatten(1) for x in turned], dim=1)

    return part


def _rope_op(share: float, dtype: torch.dtype, interleaved: bool) -> Op:
    fast, reference = (_rope_part(f, share, dtype, interleaved) for f in (rope, rope_reference))
    return Op(fast, reference, _heads)


def _geglu_erf(gate: Tensor, up: Tensor) -> Tensor:
    return geglu(gate, up, tanh=False)


def _geglu_erf_reference(gate: Tensor, up: Tensor) -> Tensor:
    return geglu_reference(gate, up, tanh=False)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, _EPS)


def _rms_norm_reference(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm_reference(x, weight, _EPS)


def _rms_norm_unit_offset(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, _EPS, unit_offset=True)


def _rms_norm_unit_offset_reference(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm_reference(x, weight, _EPS, unit_offset=True)


OPS: dict[str, Op] = {
    "rms_norm": Op(_rms_norm, _rms_norm_reference, _norm_operands),
    "rms_norm (1 + w)": Op(_rms_norm_unit_offset, _rms_norm_unit_offset_reference, _norm_operands),
    "swiglu": Op(swiglu, swiglu_reference, _pair),
    "geglu": Op(geglu, geglu_reference, _pair),
    "geglu (erf)": Op(_geglu_erf, _geglu_erf_reference, _pair),
    "rope": _rope_op(1.0, torch.bfloat16, interleaved=False),
    "rope (interleaved)": _rope_op(0.5, torch.float32, interleaved=True),
}
"""Norms, activations and rotations, by the name that reports show; a whole layer is proven when a model is loaded."""


def random_operands(
    op: Op, shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Tensor]:
    """Standard normal operands of `op` for the rows and columns in `shape`."""
    return {
        name: torch.randn(size, generator=generator, device=generator.device).to(dtype)
        for name, size in op.operands(*shape).items()
    }


def run_selftest(
    device: torch.device | str,
    *,
    dtypes: Sequence[torch.dtype] = KERNEL_DTYPES,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    ops: Collection[str] | None = None,
) -> list[OpResult]:
    """Compare ops (all of `OPS`, or those named) with their references on `device`; see the module.

    Global random state is left alone.

    Raises:
        RuntimeError: no kernel runs on `device`, so there is nothing to test (ask
            `triton_runs_on`).
    """
    if not triton_runs_on(device):
        raise RuntimeError(f"no Triton kernels run on {device}: ops take their plain-torch references")
    results = []
    for name in OPS if ops is None else ops:
        for dtype in dtypes:
            for shape in shapes:
                results += _check(name, torch.device(device), dtype, shape)
    return results


def _check(name: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> list[OpResult]:
    op = OPS[name]
    kind = str(dtype).removeprefix("torch.")
    generator = torch.Generator(device).manual_seed(0)
    try:
        operands = random_operands(op, shape, dtype, generator)
        comparisons = compare(op.fast, op.reference, operands, generator)
    except Exception as error:  # compilers and drivers fail in many ways; a report must name the op
        log.warning("%s failed in %s on %s", name, kind, device, exc_info=True)
        problem = f"{type(error).__name__}: {error}"
        return [
            OpResult(
                op=name,
                tensor="out",
                dtype=kind,
                shape=shape,
                error=math.inf,
                eager_error=math.nan,
                passed=False,
                problem=problem,
            )
        ]
    return [
        OpResult(
            op=name,
            tensor=c.tensor,
            dtype=kind,
            shape=shape,
            error=c.error,
            eager_error=c.eager_error,
            passed=c.passed,
        )
        for c in comparisons
    ]
