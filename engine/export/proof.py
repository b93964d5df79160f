"""The check of an export: what was written is opened again and must say what the live model says.

What separates the two is rounding, which for a model that learnt little can be as large as all that was learnt. So the
bound is not a share of the logits alone: an error that is small beside what was learnt is none; a larger one passes
only where rounding explains it, which is measured: the written model's adapted weights are rounded anew at random, and
its logits move by so much.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from .form import ExportError

_SMALL = 0.1
"""Share of what was learnt below which an error needs no explanation."""
_ROUNDINGS = 4.0
"""How many times what one rounding of the weights changes: activations are rounded too, and not alike."""
_ALLOWED = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Relative RMS error of the logits that rounding can explain at all."""


def compare_with_live(
    folder: Path, ids: torch.Tensor, expected: torch.Tensor, learnt: torch.Tensor, adapted: Collection[str], dtype: str
) -> str:
    """Logits of the written model against base plus adapter.

    Args:
        ids: [1, tokens].
        expected: logits of base plus adapter, [1, tokens, vocabulary].
        learnt: what the adapter changes in them, likewise.
        adapted: names of the weights that the adapter was merged into.

    Raises:
        ExportError: they differ by more than the dtype's rounding can explain.
    """
    written = AutoModelForCausalLM.from_pretrained(str(folder), dtype=getattr(torch, dtype), use_safetensors=True)
    written.eval()
    got = _logits(written, ids)
    size, error, change = _rms(expected), _rms(got - expected), _rms(learnt)
    said = f"relative RMS error {error / size:.1e}"
    if not error / size <= _ALLOWED[dtype]:  # NaN fails too
        raise ExportError(
            f"the merged model's logits differ from base plus adapter by {error / size:.2e} "
            f"(relative RMS; {dtype} explains {_ALLOWED[dtype]:.0e}): nothing was kept"
        )
    told = f"logits against base + adapter: {said} ({dtype}; the adapter changes them by {change / size:.1e})"
    if error <= _SMALL * change:
        return told
    _round_anew(written, adapted)
    rounding = _rms(_logits(written, ids) - got)
    if not error <= _ROUNDINGS * rounding:
        raise ExportError(
            f"the merged model's logits differ from base plus adapter by {error / change:.0%} of what was learnt "
            f"({said}; rounding to {dtype} explains {rounding / size:.1e}): nothing was kept"
        )
    advice = "" if dtype == "float32" else ": export.dtype=float32 keeps more"
    return f"{told}; rounding to {dtype} is {error / max(change, 1e-30):.0%} of what was learnt{advice}"


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits.float()


def _rms(values: torch.Tensor) -> float:
    return values.pow(2).mean().sqrt().item()


def _round_anew(model: Any, adapted: Collection[str]) -> None:
    """Move each value of the weights that were merged by up to half a step of its dtype, as a rounding does."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if name in adapted:
            noise = torch.rand(weight.shape, generator=generator) - 0.5
            weight.data = (weight.data.float() * (1 + noise * torch.finfo(weight.dtype).eps)).to(weight.dtype)
