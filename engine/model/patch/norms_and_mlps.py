"""Swap parts of a loaded model for parts on our kernels, after proving each on this very device.

The table `FAMILIES` says for each architecture how it norms and what its MLP is; one patcher reads
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
import functools
import logging
import math
import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....kernels.accuracy import Comparison, Part, compare
from ....kernels.backend import triton_runs_on
from ....kernels.glu import geglu, swiglu
from ....kernels.rms_norm import rms_norm

log = logging.getLogger(__name__)

_ROWS = 131
"""Rows of the random operands: odd, so that blocks of rows have a ragged end."""


@dataclass(frozen=True)
class FamilySpec:
    """How one architecture is built: the prefix of its class names, and the kinds of its parts.

    `norm` is the kind of ``<prefix>RMSNorm``, `mlp` the kind of ``<prefix>MLP``; None where the
    family has no such class. Kinds are the keys of `_FAST` and `_NO_KERNEL`.
    """

    prefix: str
    norm: str = "rms_norm"
    mlp: str | None = "swiglu"


FAMILIES: dict[str, FamilySpec] = {
    "cwm": FamilySpec("Cwm"),
    "ernie4_5": FamilySpec("Ernie4_5"),
    "gemma": FamilySpec("Gemma", norm="rms_norm (1 + w)", mlp="geglu"),
    "gemma2": FamilySpec("Gemma2", norm="rms_norm (1 + w)", mlp="geglu"),
    "gemma3": FamilySpec("Gemma3", norm="rms_norm (1 + w)", mlp="geglu"),
    "gemma3_text": FamilySpec("Gemma3", norm="rms_norm (1 + w)", mlp="geglu"),
    "glm": FamilySpec("Glm", mlp="fused swiglu"),
    "glm4": FamilySpec("Glm4", mlp="fused swiglu"),
    "granite": FamilySpec("Granite"),
    "hunyuan_v1_dense": FamilySpec("HunYuanDenseV1"),
    "llama": FamilySpec("Llama"),
    "ministral": FamilySpec("Ministral"),
    "ministral3": FamilySpec("Ministral3"),
    "mistral": FamilySpec("Mistral"),
    "mixtral": FamilySpec("Mixtral", mlp=None),
    "olmo2": FamilySpec("Olmo2", norm="rms_norm (rounds last)"),
    "olmo3": FamilySpec("Olmo3", norm="rms_norm (rounds last)"),
    "phi3": FamilySpec("Phi3", mlp="fused swiglu"),
    "qwen2": FamilySpec("Qwen2"),
    "qwen3": FamilySpec("Qwen3"),
    "qwen3_moe": FamilySpec("Qwen3Moe"),
    "smollm3": FamilySpec("SmolLM3"),
}
"""By ``model.config.model_type``; a model of text and images is looked up by its text part too."""

_NO_KERNEL = {
    "fused swiglu": "gate and up are one projection, which has no kernel",
    "rms_norm (rounds last)": "there is no kernel that multiplies by the weight before rounding",
}


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


@dataclass(frozen=True)
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


def patch_model(
    model: nn.Module, device: torch.device | str, *, force: bool = False
) -> PatchReport:
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
    dtype = compute_dtype(model)
    model_type, spec = _family(config)
    if spec is None:
        reason = f"stock: the architecture {model_type!r} is not in the table of families"
        parts = [PatchedPart(type(model).__name__, "model", 0, False, reason)]
    else:
        blocked = "" if force else no_kernels_on(device)
        parts = _patch_class(model, f"{spec.prefix}RMSNorm", spec.norm, device, dtype, blocked)
        if spec.mlp is not None:
            parts += _patch_class(model, f"{spec.prefix}MLP", spec.mlp, device, dtype, blocked)
    return PatchReport(model_type, str(device), str(dtype).removeprefix("torch."), tuple(parts))


def _family(config: Any) -> tuple[str, FamilySpec | None]:
    """The model type that the table knows, or else the outer one, and its row."""
    for model_type in (config.model_type, config.get_text_config().model_type):
        if model_type in FAMILIES:
            return model_type, FAMILIES[model_type]
    return config.model_type, None


def compute_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of hidden states: the embedding's, which adapters and 4-bit layers leave alone."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def no_kernels_on(device: torch.device) -> str:
    """Why no kernel runs on `device`; empty if they do."""
    if device.type != "cuda":
        return "stock: no GPU"
    return "" if triton_runs_on(device) else "stock: Triton is not installed"


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
    blocked = blocked or (f"stock: {_NO_KERNEL[kind]}" if kind in _NO_KERNEL else "")
    if not modules or blocked:
        reason = blocked or "the model has no such module"
        return [PatchedPart(class_name, kind, len(modules), False, reason)]

    parts = []
    # A forward set on the module itself (by accelerate, for several devices) hides a new class's.
    overridden = [m for m in modules if "forward" in vars(m)]
    if overridden:
        reason = "stock: something else has replaced the forward of these modules"
        parts.append(PatchedPart(class_name, kind, len(overridden), False, reason))
    groups: dict[tuple[type[nn.Module], int, str], list[nn.Module]] = defaultdict(list)
    for module in modules:
        if module not in overridden:
            key = stock_class(module), _width(module, kind), _activation(module)
            groups[key].append(module)
    for (stock, width, activation), group in groups.items():
        mixin = _FAST[kind] if kind != "geglu" else _GELU.get(activation)
        if mixin is None:
            fast, passed, worst = stock, False, None
            reason = f"stock: there is no kernel for the activation {activation!r}"
        else:
            fast = fast_class(stock, mixin)
            passed, reason, worst = _verify(group[0], stock, fast, kind, width, device, dtype)
        for module in group:
            module.__class__ = fast if passed else stock
        errors = (None, None) if worst is None else (_json(worst.error), _json(worst.eager_error))
        name = f"{class_name} {width}"
        parts.append(PatchedPart(name, kind, len(group), passed, reason, *errors))
    return parts


def stock_class(module: nn.Module) -> type[nn.Module]:
    """The class that the model was built with, whether or not the module is patched."""
    return getattr(type(module), "evenfall_stock", type(module))


@functools.cache
def fast_class(stock: type[nn.Module], mixin: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the model's own class, so that isinstance checks hold, with our forward."""
    namespace = {"forward": mixin.forward, "evenfall_stock": stock, "__doc__": mixin.__doc__}
    return type(f"Fast{stock.__name__}", (stock,), namespace)


def _width(module: Any, kind: str) -> int:
    """Columns of the operands of the module's kernel."""
    return module.gate_proj.out_features if kind in _GATED else module.weight.shape[0]


def _activation(module: Any) -> str:
    """The activation that an MLP's own configuration names; "" for other modules."""
    config = getattr(module, "config", None)
    return getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None) or ""


def _verify(
    module: nn.Module,
    stock: type[nn.Module],
    fast: type[nn.Module],
    kind: str,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[bool, str, Comparison | None]:
    """Compare the forwards on random operands: passed, the reason in words, the worst tensor."""
    generator = torch.Generator(device).manual_seed(0)

    def normal() -> Tensor:
        return torch.randn((_ROWS, width), generator=generator, device=device).to(dtype)

    try:
        if kind in _GATED:
            part, operands = _glu_part, {"gate": normal(), "up": normal()}
        else:
            # The model's own weights, disturbed: fresh ones, all 1 or 0, would hide their use.
            weight: Any = module.weight
            noise = normal()[0].float() / 10
            operands = {
                "x": normal(),
                "weight": (weight.detach().to(device) + noise).to(weight.dtype),
            }
            part = _norm_part
        results = compare(part(module, fast), part(module, stock), operands, generator)
    except Exception as error:  # compilers and drivers fail in many ways; stock code always works
        log.warning("checking %s failed", stock.__name__, exc_info=True)
        message = str(error).partition("\n")[0]
        return False, f"stock: the check failed with {type(error).__name__}: {message}", None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return verdict(results)


def verdict(results: list[Comparison]) -> tuple[bool, str, Comparison]:
    """Whether all tensors passed, the reason in words, and the one that fared worst."""
    worst = max(results, key=lambda c: (not c.passed, c.error / (c.eager_error + c.rounding)))
    if worst.passed:
        return True, "fast: checked on this device, no further from exact than stock", worst
    reason = f"stock: the kernel's {worst.tensor} is off by {worst.error:.1e}"
    return False, f"{reason}, the stock part's by {worst.eager_error:.1e}", worst


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


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
