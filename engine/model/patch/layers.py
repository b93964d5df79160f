"""Whole decoder layers on our own backward, each kind proven on this very device first.

The proof runs a copy of one layer, its adapters' B drawn at random (a fresh one is zero and would hide A's
gradient), three ways on the same packed documents: fast, stock in the model's dtype with its adapters in that
dtype too, and stock in float32 as the truth. Output, the input's gradient and every adapter's gradient must be
no further from the truth than stock is. Where a run may compute attention in another way as well (documents of one
length, CUDA graphs), the fast layer on that way is compared with itself on the one just proven. Layers alike in class,
sizes and adapters share one proof; a layer that holds something unknown, or whose kind fails, stays stock, with its
norms and MLP on the kernels that `norms_and_mlps.py` gave them.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ....kernels.accuracy import Comparison, relative_rms_error
from ....kernels.qlora import Workspace
from ..base import base_of
from ..families.fast_layer import FastDecoderLayer
from ..families.projections import NotFast
from ..families.table import FAMILIES, Family
from ..layers.decoder import Stream
from ..layers.packed_attention import STOCK_WAYS, Documents, Ways
from .part import PatchedPart
from .proof import (
    fast_class,
    hidden_dtype,
    no_kernels_on,
    prove,
    stock_class,
    stock_part,
)

log = logging.getLogger(__name__)


_LENGTHS = (67, 1, 63)
"""Documents of the proof: odd, so that blocks of rows have ragged ends."""

_EQUAL = (65, 65)
"""Of one length."""

_ROUNDED_TWICE = 2.0
"""How many times as far as stock is from the truth two ways through the fast layer may be from each other: each
rounds for itself."""

_TRUTH = 5e-5
"""How far from exact the truth itself may be: it is float32, and gradients cancel."""

_KIND = "decoder layer"


def patch_layers(
    model: Any, device: torch.device | str, ways: Ways = STOCK_WAYS, *, force: bool = False
) -> list[PatchedPart]:
    """Put every decoder layer that is known and passes its proof on `decoder.py`, in place.

    Safe to call again: layers are read anew, as after a change of adapters. Global random state,
    gradients and parameters are left alone.

    Args:
        model: a causal model of transformers, or a PEFT model round it, on `device`.
        ways: how the run computes packed attention, for the proof; it is proven against the stock way.
        force: patch although no Triton kernel runs on `device` by itself (tests in the interpreter).

    Returns:
        One `PatchedPart` for each kind of layer; none where the family is not known.
    """
    device = torch.device(device)
    base = base_of(model)
    family = FAMILIES.get(base.config.model_type)
    if family is None or family.read_layer is None:
        return []
    name = f"{family.prefix}DecoderLayer"
    layers = [m for m in base.modules() if stock_class(m).__name__ == name]
    if blocked := "" if force else no_kernels_on(device):
        return [stock_part(name, _KIND, len(layers), blocked)]
    rotary: Any = base.base_model.rotary_emb
    workspace, stream, dtype = Workspace(), Stream(), hidden_dtype(base)
    kinds: dict[Any, list[Any]] = defaultdict(list)
    unknown: dict[str, int] = defaultdict(int)
    for layer in layers:
        layer.__class__ = stock_class(layer)
        vars(layer).pop("evenfall", None)
        try:
            layer.evenfall = family.read(layer, workspace, stream, dtype)
            kinds[_signature(layer)].append(layer)
        except NotFast as error:
            unknown[f"stock: {error}"] += 1
        except Exception as error:  # modules of other libraries come in many shapes
            log.warning("reading a %s failed", name, exc_info=True)
            unknown[f"stock: {type(error).__name__} when it was read: {error}"] += 1
    parts = [stock_part(name, _KIND, count, why) for why, count in unknown.items()]
    for alike in kinds.values():
        one = alike[0]
        proof = prove(name, partial(_compare, one, family, rotary, device, dtype, ways), device)
        for layer in alike:
            if proof.passed:
                layer.__class__ = fast_class(stock_class(layer), FastDecoderLayer)
            else:
                del layer.evenfall
        width = one.input_layernorm.weight.shape[0]
        parts.append(proof.part(f"{name} {width}", _KIND, len(alike)))
    if first := next((layer for layer in layers if hasattr(layer, "evenfall")), None):
        first.evenfall.leads = True
    return parts


def _signature(layer: Any) -> tuple[Any, ...]:
    """What layers must share to share a proof."""
    parts = layer.evenfall.parts
    groups = tuple(
        (type(p.weight).__name__, tuple(p.weight.shape), p.rank, p.bias is None, p.scaling)
        for group in parts.groups
        for p in group.projections
    )
    return stock_class(layer), groups, getattr(layer.self_attn, "sliding_window", None)


def _compare(
    layer: Any,
    family: Family,
    rotary: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    ways: Ways,
) -> list[Comparison]:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    # Without its state: that leads to the workspace, and from there to all layers of the model.
    probe = copy.deepcopy(layer, {id(layer.evenfall): None}).eval()
    for name, parameter in probe.named_parameters():
        if "lora_B" in name:
            parameter.data = normal(*parameter.shape).mul_(0.02).to(parameter.dtype)
    probe.evenfall = family.read(probe, Workspace(), Stream(), dtype)
    probe.evenfall.leads = True
    tokens, width = max(sum(_LENGTHS), sum(_EQUAL)), layer.input_layernorm.weight.shape[0]
    hidden, dout = normal(1, tokens, width).to(dtype), normal(1, tokens, width).to(dtype)

    def run(one: Any, x: Tensor, ways: Ways, lengths: tuple[int, ...] = _LENGTHS) -> dict[str, Tensor]:
        positions = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
        ends = torch.tensor(lengths).cumsum(0)
        bounds = torch.tensor([0, *ends], dtype=torch.int32, device=device)
        leaf = x[:, : sum(lengths)].detach().requires_grad_()
        adapters = {n: p for n, p in one.named_parameters() if "lora_" in n}
        for parameter in adapters.values():
            parameter.requires_grad_(True)
        embeddings = rotary(leaf.detach(), positions)
        out = one(
            leaf, attention_mask=None, position_ids=positions, position_embeddings=embeddings,
            documents=Documents(lengths=lengths, bounds=bounds, ways=ways),
        )  # fmt: skip
        above = dout[:, : sum(lengths)].to(out.dtype)
        grads = torch.autograd.grad(out, [leaf, *adapters.values()], above)
        names = ["grad hidden", *(f"grad {name}" for name in adapters)]
        return {"out": out.detach(), **dict(zip(names, grads, strict=True))}

    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        probe.__class__ = fast_class(stock_class(layer), FastDecoderLayer)
        got = run(probe, hidden, ways)
        between: dict[str, float] = {}
        for one, other, lengths in _other_ways(ways):
            this, that = run(probe, hidden, one, lengths), run(probe, hidden, other, lengths)
            for name in got:
                error = relative_rms_error(this[name], that[name])
                between[name] = max(error, between.get(name, 0.0))
        probe.__class__ = stock_class(layer)
        del probe.evenfall  # or its copies of the weights would be copied with it
        exact = run(_in_float32(copy.deepcopy(probe)), hidden.float(), STOCK_WAYS)
        for name, parameter in probe.named_parameters():  # PEFT computes adapters in their dtype
            if "lora_" in name:
                parameter.data = parameter.data.to(dtype)
        eager = run(probe, hidden, STOCK_WAYS)
    rounding = max(torch.finfo(dtype).eps / 2, _TRUTH)
    results = []
    for name, truth in exact.items():
        eager_error = relative_rms_error(eager[name], truth)
        error = relative_rms_error(got[name], truth)
        results.append(Comparison(tensor=name, error=error, eager_error=eager_error, rounding=rounding))
        if name in between:
            results.append(
                Comparison(
                    tensor=f"{name} on another way",
                    error=between[name],
                    eager_error=_ROUNDED_TWICE * eager_error,
                    rounding=_ROUNDED_TWICE * rounding,
                )
            )
    return results


def _other_ways(ways: Ways) -> list[tuple[Ways, Ways, tuple[int, ...]]]:
    """What the run may compute otherwise than the proof's mixed documents: beside each the way to compare with,
    and the documents. Equal ones have a way of their own; a CUDA graph takes our kernel where that is proven."""
    others = []
    if ways.equal != ways.mixed:
        others.append((ways, replace(ways, equal=ways.mixed), _EQUAL))
    if ways.windowed == "kernel" != ways.mixed:
        others.append((replace(ways, mixed="kernel"), ways, _LENGTHS))
    return others


def _in_float32(layer: nn.Module) -> nn.Module:
    """The layer computing in float32; 4-bit weights stay as they are and are dequantised to it."""
    module: Any
    for module in layer.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    for parameter in layer.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    return layer
