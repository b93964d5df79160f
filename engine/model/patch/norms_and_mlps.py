"""Swap parts of a loaded model for parts on our kernels, after proving each on this very device.

The table of families says for each architecture how it norms and what its MLP is; one patcher reads
it. A part is patched by giving the module a subclass as its ``__class__``: it stays an ordinary
``nn.Module`` with the same parameters and children, so LoRA layers, 4-bit layers, hooks and state
dicts are unaffected, before or after ``get_peft_model``. A decoder layer's ``forward`` is never
assigned: transformers >= 5.23 then silently stops recomputing activations.

Before a part is swapped, its stock forward and its fast forward run on the same random operands in
the model's dtype, forward and gradients, judged by ``kernels/accuracy.py``. The stock code that
runs is the model's own, so a family that clamps, scales or drops out where the table does not say
so is found out here. A part that fails, whether by its numbers or because the kernel does not
compile, stays stock, and the report says why. An architecture that is not in the table trains at
stock speed.
"""

from __future__ import annotations

import copy
import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ....kernels.accuracy import Comparison, Part, compare
from ....kernels.glu import geglu, swiglu
from ....kernels.rms_norm import rms_norm
from ..families.table import NO_KERNEL, family_of
from .part import PatchedPart
from .proof import (
    Proof,
    fast_class,
    hidden_dtype,
    no_kernels_on,
    prove,
    stock_class,
    stock_part,
)

_ROWS = 131
"""Rows of the random operands: odd, so that blocks of rows have a ragged end."""


@dataclass(frozen=True, kw_only=True)
class PatchReport:
    """Which parts of a model are fast, and why the others are not; its ``asdict`` is plain JSON."""

    model_type: str
    device: str
    dtype: str
    parts: tuple[PatchedPart, ...]


class _FastRMSNorm(nn.Module):
    """Plain norms; see `rms_norm`."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _FastUnitOffsetRMSNorm(nn.Module):
    """Gemma's norms; see `rms_norm`."""

    weight: Tensor
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, unit_offset=True)


class _FastSwiGLU(nn.Module):
    """MLPs that call their projections as modules, be these adapters or quantised layers."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class _FastGeGLU(_FastSwiGLU):
    """Gemma's MLPs, with gelu by its tanh approximation; see `geglu`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(geglu(self.gate_proj(x), self.up_proj(x), tanh=True))


class _FastExactGeGLU(_FastSwiGLU):
    """The same with exact gelu."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(geglu(self.gate_proj(x), self.up_proj(x), tanh=False))


_FAST: dict[str, type[nn.Module]] = {
    "rms_norm": _FastRMSNorm,
    "rms_norm (1 + w)": _FastUnitOffsetRMSNorm,
    "swiglu": _FastSwiGLU,
    "geglu": _FastGeGLU,
}

_GATED = ("swiglu", "geglu")
"""The kinds whose operands are gate and up."""

_GELU = {"gelu_pytorch_tanh": _FastGeGLU, "gelu": _FastExactGeGLU}
"""For the kind "geglu", by the activation that the module's configuration names."""


def patch_model(model: nn.Module, device: torch.device | str, *, force: bool = False) -> PatchReport:
    """Put every part of `model` that the table knows, and that passes its check, on our kernels, in
    place.

    Safe to call again, and on a PEFT model. Global random state, gradients and the modules'
    parameters are left alone.

    Args:
        model: a causal language model of transformers, or a PEFT model round one, already on
            `device`.
        device: where the parts run, and therefore where they are checked.
        force: patch although no Triton kernel runs on `device` (the references then stand in for
            them).

    Returns:
        One `PatchedPart` for each class and width that the table names, or a single one that says
        why there is none.
    """
    device = torch.device(device)
    config: Any = model.config
    dtype = hidden_dtype(model)
    model_type, family = family_of(config)
    kinds = {} if family is None else {"RMSNorm": family.norm, "MLP": family.mlp}
    blocked = "" if force else no_kernels_on(device)
    parts = []
    for name, kind in kinds.items():
        if family is not None and kind is not None:
            parts += _patch_class(model, f"{family.prefix}{name}", kind, device, dtype, blocked)
    if not parts:
        known = "has no part with a kernel" if family else "is not in the table of families"
        reason = f"stock: the architecture {model_type!r} {known}"
        parts = [stock_part(type(model).__name__, "model", 0, reason)]
    return PatchReport(
        model_type=model_type,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        parts=tuple(parts),
    )


def _patch_class(
    model: nn.Module,
    class_name: str,
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
    blocked: str,
) -> list[PatchedPart]:
    """Check and swap all modules of one class, width by width."""
    modules = [m for m in model.modules() if stock_class(m).__name__ == class_name]
    blocked = blocked or (f"stock: {NO_KERNEL[kind]}" if kind in NO_KERNEL else "")
    if not modules or blocked:
        reason = blocked or "the model has no such module"
        return [stock_part(class_name, kind, len(modules), reason)]

    parts = []
    # A forward set on the module itself (by accelerate, for several devices) hides a new class's.
    overridden = [m for m in modules if "forward" in vars(m)]
    if overridden:
        reason = "stock: something else has replaced the forward of these modules"
        parts.append(stock_part(class_name, kind, len(overridden), reason))
    groups: dict[tuple[type[nn.Module], int, str], list[nn.Module]] = defaultdict(list)
    for module in modules:
        if module not in overridden:
            key = stock_class(module), _width(module, kind), _activation(module)
            groups[key].append(module)
    for (stock, width, activation), group in groups.items():
        mixin = _FAST[kind] if kind != "geglu" else _GELU.get(activation)
        if mixin is None:
            fast = stock
            reason = f"stock: there is no kernel for the activation {activation!r}"
            proof = Proof(passed=False, reason=reason)
        else:
            fast = fast_class(stock, mixin)
            one = group[0]
            proof = prove(class_name, partial(_compare, one, stock, fast, kind, width, device, dtype), device)
        for module in group:
            module.__class__ = fast if proof.passed else stock
        parts.append(proof.part(f"{class_name} {width}", kind, len(group)))
    return parts


def _width(module: Any, kind: str) -> int:
    """Columns of the operands of the module's kernel."""
    return module.gate_proj.out_features if kind in _GATED else module.weight.shape[0]


def _activation(module: Any) -> str:
    """The activation that an MLP's own configuration names; "" for other modules."""
    config = getattr(module, "config", None)
    return getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None) or ""


def _compare(
    module: nn.Module,
    stock: type[nn.Module],
    fast: type[nn.Module],
    kind: str,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Comparison]:
    """The forwards on random operands."""
    generator = torch.Generator(device).manual_seed(0)

    def normal() -> Tensor:
        return torch.randn((_ROWS, width), generator=generator, device=device).to(dtype)

    if kind in _GATED:
        part, operands = _glu_part, {"gate": normal(), "up": normal()}
    else:
        # The model's own weights, disturbed: fresh ones, all 1 or 0, would hide their use.
        weight: Any = module.weight
        noise = normal()[0].float() / 10
        operands = {"x": normal(), "weight": (weight.detach().to(device) + noise).to(weight.dtype)}
        part = _norm_part
    return compare(part(module, fast), part(module, stock), operands, generator)


def _norm_part(module: nn.Module, cls: type[nn.Module]) -> Part:
    """The forward of `cls` on a stand-in for `module` whose weight is an operand."""
    probe = _stand_in(module)

    def part(x: Tensor, weight: Tensor) -> Tensor:
        vars(probe)["_parameters"] = {"weight": weight}
        return _forward(cls)(probe, x)

    return part


def _glu_part(module: nn.Module, cls: type[nn.Module]) -> Part:
    """The forward of `cls` on a stand-in for `module` whose projections hand over the operands as
    they are.

    So the check needs no copy of the weights, no second dequantisation, and a float64 truth is
    possible.
    """
    probe = _stand_in(module)
    projections = {
        "gate_proj": operator.itemgetter(0),
        "up_proj": operator.itemgetter(1),
        "down_proj": lambda x: x,
    }
    vars(probe)["_modules"] = {**module._modules, **projections}

    def part(gate: Tensor, up: Tensor) -> Tensor:
        return _forward(cls)(probe, (gate, up))

    return part


def _stand_in(module: nn.Module) -> nn.Module:
    """A shallow copy: it shares everything, and entries of its ``__dict__`` can be replaced."""
    return copy.copy(module)


def _forward(cls: type[nn.Module]) -> Callable[..., Tensor]:
    """The plain function, so that hooks registered on the module do not see the check."""
    return cls.forward
