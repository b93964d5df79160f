"""How wrong a kernel may be: no further from the truth than eager in the same dtype is.

A fixed tolerance is either so wide that errors hide under it or so tight that correct rounding
fails. So the plain-torch part itself sets the bar: both it and the kernel are compared with the
part run in float64, by relative root-mean-square error, on the output and on the gradient of every
operand. The kernel passes where its error is at most 5 % above eager's, or no more than rounding
the exact result once can cost. The second matters for short tensors: over the 8 values of a tiny
weight gradient, eager's rounding errors are near zero by luck now and then. (A part that is written
to compute in fp32 gives an fp32 truth: what bf16 and fp16 are judged by either way.)

Source of the rule: cut-cross-entropy's tests. Source of the metric: flash-linear-attention's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN = 1.05
"""How many times eager's error a kernel's may be: room for another order of summation."""

FLOOR = 1e-6
"""Added to what is allowed: some rounding steps of fp32, in which kernels compute."""

_CHUNK = 1 << 24
"""Values of each operand that are judged in float64 at a time (128 MB each)."""

Part = Callable[..., Tensor]
"""Takes its operands by name and returns one tensor."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Relative RMS errors of one tensor ("out" or "grad NAME") against the truth; inf if not
    finite.

    `rounding` is the largest relative error of one rounding to the tensor's dtype (2^-9 for bf16).
    """

    tensor: str
    error: float
    eager_error: float
    rounding: float

    @property
    def passed(self) -> bool:
        """Whether the kernel is as close to the truth as the module's rule asks."""
        allowed = max(self.eager_error * MARGIN, self.rounding) + FLOOR
        return math.isfinite(self.error) and self.error <= allowed


def relative_rms_error(value: Tensor, truth: Tensor) -> float:
    """``rms(value - truth) / rms(truth)`` in float64, both of one shape; inf if not finite."""
    total = _Error()
    total.add(value, truth)
    return total.relative()


def compare(fast: Part, eager: Part, operands: Mapping[str, Tensor], generator: torch.Generator) -> list[Comparison]:
    """Judge `fast` by `eager`, output and every gradient, on the operands given.

    Args:
        fast: the part that uses kernels.
        eager: the same part in plain torch; also run in float64, in chunks of rows, for the truth.
        operands: by the names under which the parts take them. Those with one dimension (weights)
            are shared by all rows; the others are ``[rows, columns]`` with the same rows, on which
            the part acts one by one.
        generator: for the upstream gradient, on the operands' device. Global random state is left
            alone, and so are the operands' own ``.grad``.

    Returns:
        One `Comparison` for the output and one for each operand's gradient, in that order.

    Raises:
        ValueError: the parts return different shapes or dtypes.
    """
    device = next(iter(operands.values())).device
    # A model may be patched from inside anything: compare without its autocast, and with gradients.
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        like = eager(**operands).detach()
        dout = torch.randn(like.shape, generator=generator, device=device).to(like.dtype)
        got, want = _run(fast, operands, dout), _run(eager, operands, dout)
        shared = {f"grad {name}" for name, t in operands.items() if t.dim() == 1}
        errors = {name: (_Error(), _Error()) for name in got}
        truth_of_shared: dict[str, Tensor] = {}
        for rows in _row_chunks(operands):
            part = {n: (t if t.dim() == 1 else t[rows]).double() for n, t in operands.items()}
            for name, truth in _run(eager, part, dout[rows].double()).items():
                if name in shared:
                    before = truth_of_shared.get(name)
                    truth_of_shared[name] = truth if before is None else before + truth
                else:
                    for error, result in zip(errors[name], (got, want), strict=True):
                        error.add(result[name][rows], truth)
        for name, truth in truth_of_shared.items():
            for error, result in zip(errors[name], (got, want), strict=True):
                error.add(result[name], truth)
    return [
        Comparison(
            tensor=name,
            error=e.relative(),
            eager_error=eager_e.relative(),
            rounding=torch.finfo(got[name].dtype).eps / 2,
        )
        for name, (e, eager_e) in errors.items()
    ]


class _Error:
    """Sums of squares, so that a large tensor can be judged in pieces; on the device until read."""

    def __init__(self) -> None:
        self.squared_error: Tensor | float = 0.0
        self.squared_truth: Tensor | float = 0.0

    def add(self, value: Tensor, truth: Tensor) -> None:
        truth = truth.double()
        self.squared_error = self.squared_error + (value.double() - truth).square().sum()
        self.squared_truth = self.squared_truth + truth.square().sum()

    def relative(self) -> float:
        error, truth = (float(torch.as_tensor(t).detach()) for t in (self.squared_error, self.squared_truth))
        if not (math.isfinite(error) and math.isfinite(truth)):
            return math.inf
        return math.sqrt(error / truth) if truth > 0 else math.sqrt(error)


def _run(part: Part, operands: Mapping[str, Tensor], dout: Tensor) -> dict[str, Tensor]:
    """The part's output and the gradient of each operand, named as in `Comparison`."""
    leaves = {name: t.detach().requires_grad_() for name, t in operands.items()}
    out = part(**leaves)
    if out.shape != dout.shape or out.dtype != dout.dtype:
        raise ValueError(f"returns {tuple(out.shape)} {out.dtype}, eager {tuple(dout.shape)} {dout.dtype}")
    grads = torch.autograd.grad(out, list(leaves.values()), dout)
    return {
        "out": out.detach(),
        **{f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)},
    }


def _row_chunks(operands: Mapping[str, Tensor]) -> Iterator[slice]:
    """Slices that cover all rows, each of about `_CHUNK` values."""
    n_rows, n_cols = next(t.shape for t in operands.values() if t.dim() > 1)
    step = max(1, _CHUNK // n_cols)
    for start in range(0, n_rows, step):
        yield slice(start, start + step)
