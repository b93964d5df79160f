"""Many small matrices written into windows of others, scaled and rounded, in one launch.

An adapter's A and B live in fp32 where the optimiser updates them; the matmuls read them rounded to the compute
dtype, as windows of larger matrices (`qlora.py`). After an update there are hundreds of such copies, each far
smaller than a launch costs. So their addresses and sizes are put into a table on the device once, and a
program takes one block of one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .backend import COMPILE_OPTIONS, KERNEL_DTYPES, jit, launch_on, tl, triton_runs_on

_BLOCK = 2048


class Copy(NamedTuple):
    """``target = scale * source``, both ``[rows, columns]``, rows of either any distance apart."""

    source: Tensor
    target: Tensor
    scale: float


@jit()
def _scatter_kernel(
    table_ptr,  # [copies, 6], int64: source, target, rows, columns, their row strides
    scale_ptr,  # [copies], fp32
    blocks,
    SOURCE: tl.constexpr,
    TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    table_ptr += index * 6
    columns = tl.load(table_ptr + 3)
    values = tl.load(table_ptr + 2) * columns
    if block * BLOCK < values:
        source_ptr = tl.load(table_ptr).to(tl.pointer_type(SOURCE))  # pyright: ignore[reportArgumentType]
        target_ptr = tl.load(table_ptr + 1).to(tl.pointer_type(TARGET))  # pyright: ignore[reportArgumentType]
        at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = at < values
        row = at // columns
        column = at - row * columns
        value = tl.load(source_ptr + row * tl.load(table_ptr + 4) + column, mask=mask, other=0.0)
        value = value.to(tl.float32) * tl.load(scale_ptr + index)
        tl.store(target_ptr + row * tl.load(table_ptr + 5) + column, value.to(TARGET), mask=mask)


class Scatter:
    """A set of copies, all of one source and one target dtype, that is made again and again.

    It refers to the tensors' memory: make a new one when a tensor has moved.
    """

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies = list(copies)
        pairs = {(c.source.dtype, c.target.dtype) for c in copies}
        if any(
            c.source.shape != c.target.shape
            or c.source.dim() != 2
            or c.source.stride(1) != 1
            or c.target.stride(1) != 1
            for c in copies
        ):
            raise ValueError("scatter: source and target must be matrices alike, rows adjacent")
        self._on_triton = (
            len(pairs) == 1
            and triton_runs_on(copies[0].target.device)
            and all(dtype in KERNEL_DTYPES for dtype in next(iter(pairs)))
            and all(c.source.numel() for c in copies)
        )
        if not self._on_triton:
            return
        device = copies[0].target.device
        rows = [
            [
                c.source.data_ptr(), c.target.data_ptr(), *c.source.shape,
                c.source.stride(0), c.target.stride(0),
            ]
            for c in copies
        ]  # fmt: skip
        self._table = torch.tensor(rows, dtype=torch.int64).to(device)
        self._scales = torch.tensor([c.scale for c in copies], dtype=torch.float32).to(device)
        self._blocks = max(-(-c.source.numel() // _BLOCK) for c in copies)

    def run(self) -> None:
        """Make all copies."""
        if not self._on_triton:
            for source, target, scale in self._copies:
                target.copy_(source * scale)
            return
        source, target, _ = self._copies[0]
        with launch_on(target):
            _scatter_kernel[(len(self._copies) * self._blocks,)](
                self._table, self._scales, self._blocks,
                SOURCE=_triton_dtype(source.dtype), TARGET=_triton_dtype(target.dtype),
                BLOCK=_BLOCK, num_warps=4, **COMPILE_OPTIONS,
            )  # fmt: skip


def _triton_dtype(dtype: torch.dtype) -> object:
    return {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]
