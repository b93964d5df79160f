"""Does every kernel give the right numbers on this very device?

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
from .rms_norm import rms_norm, rms_norm_reference
from .swiglu import swiglu, swiglu_reference

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


@dataclass(frozen=True)
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
}
"""Every op with a kernel, by the name that reports show."""


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
        raise RuntimeError(
            f"no Triton kernels run on {device}: ops take their plain-torch references"
        )
    results = []
    for name in OPS if ops is None else ops:
        for dtype in dtypes:
            for shape in shapes:
                results += _check(name, torch.device(device), dtype, shape)
    return results


def _check(
    name: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, int]
) -> list[OpResult]:
    op = OPS[name]
    kind = str(dtype).removeprefix("torch.")
    generator = torch.Generator(device).manual_seed(0)
    try:
        operands = random_operands(op, shape, dtype, generator)
        comparisons = compare(op.fast, op.reference, operands, generator)
    except Exception as error:  # compilers and drivers fail in many ways; a report must name the op
        log.warning("%s failed in %s on %s", name, kind, device, exc_info=True)
        problem = f"{type(error).__name__}: {error}"
        return [OpResult(name, "out", kind, shape, math.inf, math.nan, False, problem)]
    return [
        OpResult(name, c.tensor, kind, shape, c.error, c.eager_error, c.passed) for c in comparisons
    ]
