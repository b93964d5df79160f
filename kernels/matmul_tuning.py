"""Measures which algorithm of cuBLAS is fastest for a product, under load.

The candidates of the heuristic are timed long enough for the clock to settle (see `matmul.py` for why), when a
model's sizes are first met on a kind of GPU: some 20 seconds in all for a large model.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from .cublaslt import DTYPES, Algorithm, CublasLt, CublasLtError, Operands, cublaslt
from .matmul import aligned
from .matmul_choices import Choice, Choices, Product, Weight, choices_of, keep

log = logging.getLogger(__name__)

_LEAST = 5e10
"""Operations of a product from which on it is tuned, some 0.1 ms on a large GPU: smaller ones do not heat it."""

_SETTLE = 0.08
"""Seconds of a candidate before it is timed: the clock follows the power within some tens of milliseconds."""

_FINALISTS = 5
_ROUNDS = 2
"""Turns that the finalists take: a GPU's temperature drifts."""

_FP32_REDUCTIONS = (0, 2)
"""Of sums that are split: none, and in fp32. Others add what is rounded already."""

_GAIN = 1.005
"""A candidate that is faster by less is within the scatter."""


def tune(
    products: Sequence[Product],
    dtype: torch.dtype,
    device: torch.device,
    tell: Callable[[int], None] = lambda left: None,
) -> list[Choice]:
    """See that each large product of a model has its choice, and that it is right on this device.

    What is not in the table is measured, which takes about two seconds each, and kept on disk. What is in it
    is run once and compared with torch's result. Both take the memory of the operands.

    Args:
        tell: hears how many products are still to be measured.

    Returns:
        The choices, one for each large product; none where there is no cublasLt.

    Raises:
        torch.OutOfMemoryError: there is no room for the operands; what was measured by then is kept.
    """
    lt = cublaslt(device)
    if lt is None or dtype not in DTYPES:
        return []
    choices = choices_of(device)
    large = [p for p in dict.fromkeys(products) if 2.0 * p.rows * p.columns * p.inner >= _LEAST]
    weights = [Weight(p.columns, p.inner, p.transposed, dtype) for p in large]
    unknown = [
        product for product, weight in zip(large, weights, strict=True) if choices.find(weight, product.rows) is None
    ]
    if unknown:
        _heat(device, dtype)
    found = []
    try:
        for product, weight in zip(large, weights, strict=True):
            if product in unknown:
                tell(len(unknown) - unknown.index(product))
                choices.set(product, dtype, _measure(lt, product, dtype, device))
            choice = choices.find(weight, product.rows)
            assert choice is not None
            if product not in unknown and not _right(choices, product, dtype, device):
                log.warning("%s: %s gives wrong results here", product, choice.algorithm)
                choice = Choice(None, choice.torch_ms, choice.torch_ms)
                wrong = choices.near(weight, product.rows)
                assert wrong is not None
                choices.set(product._replace(rows=wrong), dtype, choice)
            found.append(choice)
    finally:
        if unknown:
            keep(choices, device, lt)
    return found


def _measure(lt: CublasLt, product: Product, dtype: torch.dtype, device: torch.device) -> Choice:
    a, b, out = operands_for(product, dtype, device)
    operands = Operands.of(a, b, out)
    assert operands is not None
    want = torch.mm(a, b)

    def by(algorithm: Algorithm) -> Callable[[], object]:
        return lambda: lt.run(algorithm, operands, a, b, out)

    right: list[Algorithm] = []
    for algorithm in lt.algorithms(operands):
        if algorithm[2] > 1 and algorithm[3] not in _FP32_REDUCTIONS:
            continue
        out.fill_(math.nan)
        with suppress(CublasLtError):
            by(algorithm)()
            if agree(out, want):
                right.append(algorithm)
    short = sorted(right, key=lambda one: _milliseconds(by(one), device))[:_FINALISTS]
    times: dict[Algorithm | None, float] = defaultdict(float)
    for _ in range(_ROUNDS):
        for algorithm in short:
            times[algorithm] += _settled(by(algorithm), device) / _ROUNDS
        times[None] += _settled(lambda: torch.mm(a, b, out=out), device) / _ROUNDS
    stock = times.pop(None)
    best = min(times, key=lambda one: times[one], default=None)
    if best is None or times[best] * _GAIN > stock:
        return Choice(None, stock, stock)
    return Choice(best, stock, times[best])


def _right(choices: Choices, product: Product, dtype: torch.dtype, device: torch.device) -> bool:
    a, b, out = operands_for(product, dtype, device)
    out.fill_(math.nan)
    return choices.multiply(a, b, out) is None or agree(out, torch.mm(a, b))


def agree(got: Tensor, want: Tensor) -> bool:
    """Value by value within the rounding of two results whose fp32 sums were taken in another order."""
    if torch.equal(got, want):
        return True
    scale = want.float().square().mean().sqrt() / 4
    parts = zip(got.split(1024), want.split(1024), strict=True)  # their fp32 copies are large
    eps = torch.finfo(want.dtype).eps
    return all(
        bool(((one.float() - other.float()).abs() <= 2 * eps * (other.float().abs() + scale)).all())
        for one, other in parts
    )


def operands_for(product: Product, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random a and b, and room for the result, laid out as `qlora.py` does."""
    generator = torch.Generator(device).manual_seed(0)
    a = aligned(product.rows, product.inner, dtype, device)
    a.normal_(generator=generator)
    if product.transposed:
        weight = aligned(product.columns, product.inner, dtype, device)
    else:
        weight = aligned(product.inner, product.columns, dtype, device)
    weight.normal_(std=0.02, generator=generator)
    out = torch.empty((product.rows, product.columns), dtype=dtype, device=device)
    return a, weight.t() if product.transposed else weight, out


def _heat(device: torch.device, dtype: torch.dtype) -> None:
    """Bring the GPU to the clock that it has under load."""
    x = torch.randn(4096, 4096, device=device, dtype=dtype)
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        for _ in range(20):
            torch.mm(x, x)
        torch.cuda.synchronize(device)


def _settled(run: Callable[[], object], device: torch.device) -> float:
    end = time.perf_counter() + _SETTLE
    while time.perf_counter() < end:
        _milliseconds(run, device)
    return statistics.median(_milliseconds(run, device) for _ in range(3))


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one of several calls in a row, 20 ms or so in all."""

    def timed(count: int) -> float:
        with torch.cuda.device(device):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            for _ in range(count):
                run()
            after.record()
            after.synchronize()
        return before.elapsed_time(after) / count

    once = timed(1)
    return timed(max(2, min(100, int(20 / max(once, 1e-3)))))
