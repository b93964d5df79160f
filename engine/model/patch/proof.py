"""What every patch shares: when there are kernels at all, the class that is swapped in, the verdict, the account."""

import functools
from dataclasses import dataclass

import torch
from torch import nn

from ....kernels.accuracy import Comparison
from ....kernels.backend import triton_runs_on


@dataclass(frozen=True)
class PatchedPart:
    """What became of all modules of one class and width.

    Attributes:
        name: class and width, "LlamaRMSNorm 4096"; the class alone where nothing was compared.
        kind: "rms_norm", "rms_norm (1 + w)", "swiglu", "geglu", ...
        count: modules of this kind in the model.
        fast: whether they run on our kernels now.
        reason: why, in words for the screen.
        error, eager_error: relative RMS error against float64 of the fast and the stock part, for
            the tensor that fared worst of output and gradients; None where nothing was compared or
            a value was not finite.
    """

    name: str
    kind: str
    count: int
    fast: bool
    reason: str
    error: float | None = None
    eager_error: float | None = None


def compute_dtype(model: nn.Module) -> torch.dtype:
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


def verdict(results: list[Comparison]) -> tuple[bool, str, Comparison]:
    """Whether all tensors passed, the reason in words, and the one that fared worst."""
    worst = max(results, key=lambda c: (not c.passed, c.error / (c.eager_error + c.rounding)))
    if worst.passed:
        return True, "fast: checked on this device, no further from exact than stock", worst
    reason = f"stock: the kernel's {worst.tensor} is off by {worst.error:.1e}"
    return False, f"{reason}, the stock part's by {worst.eager_error:.1e}", worst
