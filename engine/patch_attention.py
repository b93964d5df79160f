"""The proof that our packed-attention kernel is right for a model's heads on this very device.

It is judged against attention document by document through torch's own operators, forward and gradients, for
each kind of layer that the model has: with its window, its soft-cap and its number of heads. A model whose
attention is not `attention.py`'s keeps its own.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..kernels.accuracy import Comparison, relative_rms_error
from .attention import NAME, Documents, attend
from .patch import PatchedPart, compute_dtype, no_kernels_on, verdict

log = logging.getLogger(__name__)

_LENGTHS = (67, 1, 190, 42)
"""Documents of the proof: shorter and longer than a tile, and astride of tiles."""

_TENSORS = ("out", "grad query", "grad key", "grad value")

_NAME = "packed attention"


def patch_attention(
    model: Any, device: torch.device | str, *, force: bool = False
) -> PatchedPart | None:
    """Say whether packed rows may go through our kernel (`Documents.kernel`).

    Args:
        model: a causal model of transformers, or a PEFT model round it, on `device`.
        force: although no Triton kernel runs on `device` by itself (tests in the interpreter).

    Returns:
        The verdict; None where the model's attention is not packed.
    """
    device = torch.device(device)
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    if config._attn_implementation != NAME:
        return None
    layers = config.num_hidden_layers
    if blocked := "" if force else no_kernels_on(device):
        return PatchedPart(_NAME, _NAME, layers, False, blocked)
    try:
        results = _compare(config, device, compute_dtype(base))
    except Exception as error:  # compilers and drivers fail in many ways; torch's own always works
        log.warning("the proof of %s failed", _NAME, exc_info=True)
        message = str(error).partition("\n")[0]
        reason = f"stock: the proof failed with {type(error).__name__}: {message}"
        return PatchedPart(_NAME, _NAME, layers, False, reason)
    passed, reason, worst = verdict(results)
    return PatchedPart(_NAME, _NAME, layers, passed, reason, worst.error, worst.eager_error)


def _compare(config: Any, device: torch.device, dtype: torch.dtype) -> list[Comparison]:
    generator = torch.Generator(device).manual_seed(0)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    softcap = getattr(config, "attn_logit_softcapping", None)
    tokens = sum(_LENGTHS)
    bounds = torch.tensor([0, *torch.tensor(_LENGTHS).cumsum(0)], dtype=torch.int32, device=device)

    def normal(count: int) -> Tensor:
        return torch.randn((1, count, tokens, size), generator=generator, device=device).to(dtype)

    def run(heads: list[Tensor], dout: Tensor, window: int | None, kernel: bool) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in heads]
        query, key, value = leaves
        documents = Documents(_LENGTHS, bounds, kernel)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            out, _ = attend(
                torch.nn.Module(), query, key, value, None,
                sliding_window=window, softcap=softcap, documents=documents,
            )  # fmt: skip
            grads = torch.autograd.grad(out, leaves, dout.to(out.dtype))
        return [out.detach(), *grads]

    results = []
    # A window longer than these documents would prove nothing about windows.
    for window in {None, 50} if getattr(config, "sliding_window", None) else {None}:
        qkv = [normal(count) for count in (heads, kv_heads, kv_heads)]
        dout = normal(heads).transpose(1, 2)
        got, eager = (run(qkv, dout, window, kernel) for kernel in (True, False))
        exact = run([t.double() for t in qkv], dout, window, False)
        for name, *tensors in zip(_TENSORS, got, eager, exact, strict=True):
            error, eager_error = (relative_rms_error(t, tensors[2]) for t in tensors[:2])
            results.append(Comparison(name, error, eager_error, torch.finfo(dtype).eps / 2))
    return results
