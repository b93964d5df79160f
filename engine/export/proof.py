"""The check of an export: what was written is opened again and must say what the live model says."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from .form import ExportError


def compare_with_live(folder: Path, ids: torch.Tensor, expected: torch.Tensor, dtype: str) -> str:
    """Logits of the written model against base plus adapter.

    Raises:
        ExportError: they differ by more than the dtype's rounding can explain.
    """
    written = AutoModelForCausalLM.from_pretrained(str(folder), dtype=getattr(torch, dtype), use_safetensors=True)
    written.eval()
    with torch.inference_mode():
        got = written(input_ids=ids, use_cache=False).logits.float()
    error = ((got - expected).pow(2).mean() / expected.pow(2).mean()).sqrt().item()
    allowed = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}[dtype]
    if not error <= allowed:  # NaN fails too
        raise ExportError(
            f"the merged model's logits differ from base plus adapter by {error:.2e} "
            f"(relative RMS; {dtype} explains {allowed:.0e}): nothing was kept"
        )
    return f"logits against base + adapter: relative RMS error {error:.1e} ({dtype})"
