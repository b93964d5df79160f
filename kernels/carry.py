"""Rows copied into a projection's input buffer, and multiplied by its adapter on the way.

Attention writes its output to memory of its own where it is not ours (`engine/model/layers/attention.py`). The output
projection wants it in a buffer that carries the adapter's columns (`qlora.py`): a copy, and then a matmul that reads
the copy once more for a few columns. Here a program copies a block of rows and multiplies what it holds anyway,
as the GLUs do in `glu_adapters.py`, by the same functions (`blocks.py`). Sums are fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import COMPILE_OPTIONS, INTERPRETED, jit, launch_on, takes_triton, tl, triton
from .blocks import PINS, lanes_of, load_block, multiply_block, pin

MAX_EXTRA = 64
"""The most columns that are multiplied on the way; more get a copy and a matmul."""

_ROWS, _COLS, _WARPS, _STAGES = 32, 128, 8, 3


@jit(do_not_specialize=["n_rows"])
def _copy_carry_kernel(
    source_ptr,  # [n_rows, n_cols], rows source_stride apart
    target_ptr,  # [n_rows, n_cols], rows target_stride apart
    adapter_ptr,  # [extra, n_cols], rows adapter_stride apart
    carried_ptr,  # [n_rows, extra], rows carried_stride apart
    source_stride,
    target_stride,
    adapter_stride,
    carried_stride,
    n_rows,
    n_cols,
    extra,
    PIN: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_EXTRA: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    lanes = tl.arange(0, BLOCK_EXTRA)
    inside = (rows < n_rows)[:, None]
    wanted = (lanes < extra)[:, None]

    carried = tl.zeros([BLOCK_ROWS, BLOCK_EXTRA], dtype=tl.float32)
    for start in range(0, n_cols, BLOCK_COLS):
        cols = start + tl.arange(0, BLOCK_COLS)
        there = (cols < n_cols)[None, :]
        mask = inside & there
        value = pin(load_block(source_ptr, rows, source_stride, cols, mask), PIN)
        adapter = load_block(adapter_ptr, lanes, adapter_stride, cols, wanted & there)
        tl.store(target_ptr + rows[:, None] * target_stride + cols[None, :], value, mask=mask)
        carried = multiply_block(value, tl.trans(adapter), carried, WIDE)

    carried_ptrs = carried_ptr + rows[:, None] * carried_stride + lanes[None, :]
    mask = inside & (lanes < extra)[None, :]
    tl.store(carried_ptrs, carried.to(carried_ptr.dtype.element_ty), mask=mask)


def copy_carry_reference(source: Tensor, rows: Tensor) -> Tensor:
    """What is carried, in plain torch; see `copy_carry`."""
    return torch.mm(source, rows.t())


def copy_carry(source: Tensor, target: Tensor, rows: Tensor, carried: Tensor) -> None:
    """Write ``target = source`` and ``carried = source @ rows.T``; raw: no checks, no autograd.

    Args:
        source: ``[tokens, columns]`` with adjacent columns and rows any distance apart, as all operands
            have, fp32, bf16 or fp16, and all of one dtype and on one device.
        target: the same shape, written; other memory.
        rows: ``[extra, columns]``; fused up to `MAX_EXTRA` of them.
        carried: ``[tokens, extra]``, written: sums in fp32.
    """
    (n_rows, n_cols), extra = source.shape, rows.shape[0]
    if not takes_triton(source, target) or not 0 < extra <= MAX_EXTRA:
        target.copy_(source)
        if extra:
            carried.copy_(copy_carry_reference(source, rows))
        return
    with launch_on(source):
        _copy_carry_kernel[(triton.cdiv(n_rows, _ROWS),)](
            source,
            target,
            rows,
            carried,
            source.stride(0),
            target.stride(0),
            rows.stride(0),
            carried.stride(0),
            n_rows,
            n_cols,
            extra,
            PIN=PINS,
            WIDE=INTERPRETED,
            BLOCK_ROWS=_ROWS,
            BLOCK_COLS=_COLS if source.element_size() == 2 else _COLS // 4,
            BLOCK_EXTRA=lanes_of(extra),
            num_warps=_WARPS,
            num_stages=_STAGES,
            **COMPILE_OPTIONS,
        )
