"""The large products of a step, each by the algorithm of cuBLAS that is fastest under load.

torch leaves the choice to cuBLAS' heuristic, which knows what is fastest in a short burst. A training step is
hours of load, and there the power that a GPU may draw decides: an H200 multiplies bf16 at 760 TFLOP/s for a
twentieth of a second and at 675 after a second, because it lowers its clock. What counts then is the energy of
a product, and the algorithm with the least is another one, by some per cent of the time (same bits in all
cases seen: only the tiles differed).

`matmul_tuning.py` measures the candidates, `matmul_choices.py` holds what was found. Whatever is not in that
table, or not known to this cuBLAS, goes to torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .matmul_choices import choices_of

_LINE = 128
"""Bytes from which rows of operands start: a block of 64 columns is then one line of the cache in every row
and not a part of two, and products are 1 to 2 % faster."""


def aligned(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An operand, ``[rows, columns]``, not initialised, whose rows start at lines of the cache."""
    width = row_bytes(columns, dtype) // dtype.itemsize
    return torch.empty((rows, width), dtype=dtype, device=device)[:, :columns]


def row_bytes(columns: int, dtype: torch.dtype) -> int:
    """What a row of an `aligned` operand takes."""
    return -(-columns * dtype.itemsize // _LINE) * _LINE


def matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``torch.mm(a, b)``, of 16-bit operands on a GPU in the way that was measured.

    Args:
        a: ``[rows, inner]``.
        b: ``[inner, columns]``, row-major or the transpose of a row-major matrix.
        out: ``[rows, columns]`` to write to, rows any distance apart.
    """
    if a.is_cuda and (product := choices_of(a.device).multiply(a, b, out)) is not None:
        return product
    return torch.mm(a, b) if out is None else torch.mm(a, b, out=out)


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` accumulated and returned in fp32 (float64 stays)."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if not (a.numel() and b.numel()):  # a projection without an adapter: no columns
        return torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float32, device=a.device)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
