"""The algorithms of a model's large matmuls, measured on this kind of GPU and tried on this one
(`kernels/matmul_tuning.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ....kernels.linear_cross_entropy import products as head_products
from ....kernels.matmul_tuning import tune
from ..families.fast_layer import fast_states
from ..layers.loss_head import LossHead
from .part import PatchedPart
from .proof import stock_part

_NAME = "large matmuls"


def patch_matmuls(
    model: Any,
    head: LossHead | None,
    tokens: int,
    device: torch.device,
    tell: Callable[[str], None],
) -> PatchedPart | None:
    """See that the matmuls of the fast layers and of the head have their algorithms.

    Args:
        tokens: of the largest micro-batch.
        tell: hears in words what is measured, where anything is.

    Returns:
        What became of them; None where the model has none that are large.
    """
    groups = [group for state in fast_states(model) for group in state.parts.groups]
    if device.type != "cuda" or not groups:
        return None
    products = [product for group in groups for product in group.products(tokens)]
    if head is not None:
        products += head_products(tokens, head.weight)

    def report(left: int) -> None:
        tell(f"measuring the large matmuls, once for this GPU: {left} to go")

    try:
        choices = tune(products, groups[0].dtype, device, report)
    except torch.OutOfMemoryError:
        return stock_part(_NAME, "matmul", 0, "stock: no memory left to measure them")
    finally:
        torch.cuda.empty_cache()
    if not choices:
        return None
    changed = sum(choice.algorithm is not None for choice in choices)
    stock, best = (sum(getattr(c, name) for c in choices) for name in ("torch_ms", "best_ms"))
    reason = (
        f"{changed} of {len(choices)} by another algorithm of cuBLAS than torch's, right here and "
        f"under load {1 - best / stock:.1%} faster in all"
        if changed
        else "stock: torch's choice is the fastest under load"
    )
    return PatchedPart(name=_NAME, kind="matmul", count=len(choices), fast=bool(changed), reason=reason)
