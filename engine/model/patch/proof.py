"""What every patch shares: when there are kernels at all, the proof, the class that is swapped in.

Stock code always works. So a part goes on our kernels only after a proof on this very device, and whatever goes wrong
in a proof (compilers and drivers fail in many ways) is a reason to stay stock.
"""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ....kernels.accuracy import Comparison
from ....kernels.backend import triton_runs_on
from .part import PatchedPart

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How a part of ours fared beside the stock part."""

    passed: bool
    reason: str
    """In words for the screen."""
    worst: Comparison | None = None
    """The tensor that fared worst; None where nothing could be compared."""

    def part(self, name: str, kind: str, count: int, *, more: str = "") -> PatchedPart:
        """What became of `count` modules by this proof; `more` is put behind the reason."""
        errors = (self.worst.error, self.worst.eager_error) if self.worst else (math.inf, math.inf)
        error, eager_error = (one if math.isfinite(one) else None for one in errors)
        return PatchedPart(
            name=name,
            kind=kind,
            count=count,
            fast=self.passed,
            reason=self.reason + more,
            error=error,
            eager_error=eager_error,
        )


def prove(what: str, compare: Callable[[], list[Comparison]], device: torch.device) -> Proof:
    """Compare a part of ours with the stock part.

    Args:
        what: for the log.
        compare: runs both, and says how far each is from the truth.
    """
    try:
        results = compare()
    except Exception as error:
        log.warning("the proof of %s failed", what, exc_info=True)
        message = str(error).partition("\n")[0]
        reason = f"stock: the proof failed with {type(error).__name__}: {message}"
        return Proof(passed=False, reason=reason)
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    worst = max(results, key=lambda c: (not c.passed, c.error / (c.eager_error + c.rounding)))
    if worst.passed:
        reason = "fast: checked on this device, no further from exact than stock"
        return Proof(passed=True, reason=reason, worst=worst)
    reason = f"stock: the kernel's {worst.tensor} is off by {worst.error:.1e}"
    reason += f", the stock part's by {worst.eager_error:.1e}"
    return Proof(passed=False, reason=reason, worst=worst)


def stock_part(name: str, kind: str, count: int, reason: str) -> PatchedPart:
    """A part that stays stock without a proof."""
    return PatchedPart(name=name, kind=kind, count=count, fast=False, reason=reason)


def hidden_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of hidden states: the embedding's, which adapters and 4-bit layers leave alone."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def no_kernels_on(device: torch.device) -> str:
    """Why no kernel runs on `device`; empty if they do."""
    if device.type != "cuda":
        return "stock: no GPU"
    return "" if triton_runs_on(device) else "stock: Triton is not installed"


def stock_class(module: nn.Module) -> type[nn.Module]:
    """The class that the model was built with, whether or not the module is patched."""
    return getattr(type(module), "evenfall_stock", type(module))


@functools.cache
def fast_class(stock: type[nn.Module], mixin: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the model's own class, so that isinstance checks hold, with our forward."""
    namespace = {"forward": mixin.forward, "evenfall_stock": stock, "__doc__": mixin.__doc__}
    return type(f"Fast{stock.__name__}", (stock,), namespace)
