"""``y = x W^T`` for 1 to 8 rows of x, with W in NF4 as it lies in memory: one launch, for chat.

A decoding step reads every weight once, so its floor is 0.52 bytes a weight; writing W out in bf16
first would move nearly nine times as much. The kernel multiplies code values by x in fp32, adds up
eight products in a thread, and scales each sum by its block's absmax: one multiplication for eight
weights, and no rounding of a weight to 16 bits, so it is closer to the truth than
dequantise-then-matmul. bias and the LoRA adapter are added before the one rounding of y.

A program is a single warp with up to four rows of W, which it walks along in steps of 1024 weights;
copies of the next two steps are under way meanwhile. One warp, because the look-up of code values
then is a shuffle between its lanes, without shared memory or barriers, and because thousands of
small programs leave no tail. Four rows, because they share the loaded x (see `_tile`).

K is not split over programs: N alone fills the machine. An H200 has 132 multiprocessors; to keep
its memory busy each needs some 14 KB under way (17.7 bytes a cycle for 800 cycles). For N = 4096,
1024 programs of four rows make 7.75 a multiprocessor, with 4 KB under way in each: 31 KB. For
N = 14336 there are more. For N = 1024, with one row a program, it is 7.75 KB of the 15.9 KB that
a multiprocessor reads in all: that takes two latencies, less than a second launch would.

What bounds it is arithmetic: 5.5 instructions a weight (counted for sm_90; four of them are shift,
mask, shuffle and multiply-add). A multiprocessor of an H200 issues 128 in a cycle, and its share of
the memory's speed is 35 weights, so two thirds of the floor's speed are the most to be had. Each
further row of x adds a multiply-add a weight, and x itself is then read from L2 as often as there
are programs: from some m on, dequantise-and-multiply is as fast. ``tests/gpu/nf4_gpu.py`` times
both.

Forward only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import (
    COMPILE_OPTIONS,
    as_rows,
    jit,
    launch_on,
    processors,
    takes_triton,
    tl,
    triton,
)
from .nf4 import (
    NF4Weight,
    dequantize_nf4_reference,
    load_absmax,
    load_any,
    look_up,
    operands,
    unpack,
    words_of,
)

MAX_ROWS = 8
"""Of x. With more, dequantise and multiply."""

_STEP = 1024
"""Weights of a row in one step: 32 a lane."""

_PRODUCTS = 8192
"""Products in one step at most, rows of x times weights. At 256 a lane nothing spills."""

_ANY_PRODUCTS = 2048
"""The same where rows do not consist of whole blocks: there, each product has a sum of its own."""


def gemv_nf4_reference(
    x: Tensor,
    weight: NF4Weight,
    bias: Tensor | None = None,
    xa: Tensor | None = None,
    lora_b: Tensor | None = None,
    scaling: float = 1.0,
) -> Tensor:
    """Dequantise to the dtype of x, multiply, add the adapter as PEFT does; see `gemv_nf4`."""
    out = F.linear(x, dequantize_nf4_reference(weight, x.dtype), _like(bias, x))
    if xa is not None and lora_b is not None:
        out = out + (F.linear(xa.to(lora_b.dtype), lora_b) * scaling).to(x.dtype)
    return out


def _like(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(x.dtype)


@jit()
def _gemv_nf4_kernel(
    x_ptr,  # [m, n_cols], rows x_stride apart
    packed_ptr,  # 32-bit words of eight codes with WHOLE, else bytes
    absmax_ptr,
    absmax2_ptr,
    code2_ptr,
    offset_ptr,
    code_ptr,
    bias_ptr,  # [n_rows]; not touched without BIAS
    xa_ptr,  # [m, rank], contiguous; not touched if RANK is 0
    lora_b_ptr,  # [n_rows, rank], contiguous; likewise
    out_ptr,  # [m, n_rows], contiguous
    x_stride,
    m,
    n_rows,
    n_cols,
    rank,
    scaling,
    NESTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK2: tl.constexpr,
    WHOLE: tl.constexpr,  # rows consist of whole blocks, COLS is a multiple of BLOCK
    M: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    RANK: tl.constexpr,  # a power of two
    BIAS: tl.constexpr,
    EVEN: tl.constexpr,  # M is m, ROWS divides n_rows, COLS divides n_cols
    STAGES: tl.constexpr,
):
    WORDS: tl.constexpr = COLS // 8
    SPAN: tl.constexpr = COLS // BLOCK
    x_rows = tl.arange(0, M)
    rows = tl.arange(0, ROWS)
    row = tl.program_id(0).to(tl.int64) * ROWS
    x_mask = EVEN | (x_rows < m)
    mask = EVEN | (row + rows < n_rows)

    # Loaded before the long loop and used after it, so that nothing waits for them.
    if RANK:
        ranks = tl.arange(0, RANK)
        xa_mask = x_mask[:, None] & (ranks < rank)[None, :]
        xa = tl.load(xa_ptr + x_rows[:, None] * rank + ranks[None, :], mask=xa_mask, other=0.0)
        b_mask = mask[:, None] & (ranks < rank)[None, :]
        b_ptrs = lora_b_ptr + row * rank + rows[:, None] * rank + ranks[None, :]
        lora_b = tl.load(b_ptrs, mask=b_mask, other=0.0)
    if BIAS:
        bias = tl.load(bias_ptr + row + rows, mask=mask, other=0.0)

    sums = tl.zeros([M, ROWS, WORDS if WHOLE else COLS], dtype=tl.float32)
    for col in tl.range(0, n_cols, COLS, num_stages=STAGES):  # pyright: ignore[reportGeneralTypeIssues]
        cols = col + tl.arange(0, COLS)
        x_ptrs = x_ptr + x_rows.to(tl.int64)[:, None] * x_stride + cols[None, :]
        x = tl.load(x_ptrs, mask=x_mask[:, None] & (EVEN | (cols < n_cols))[None, :], other=0.0)
        x = x.to(tl.float32)
        if WHOLE:
            word = col // 8 + tl.arange(0, WORDS)
            words = tl.load(
                packed_ptr + row * (n_cols // 8) + rows[:, None] * (n_cols // 8) + word[None, :],
                mask=mask[:, None] & (EVEN | (word < n_cols // 8))[None, :],
                other=0,
            )
            block = col // BLOCK + tl.arange(0, SPAN)
            absmax = load_absmax(
                absmax_ptr,
                absmax2_ptr,
                code2_ptr,
                offset_ptr,
                row * (n_cols // BLOCK),
                rows[:, None] * (n_cols // BLOCK) + block[None, :],
                mask[:, None] & (EVEN | (block < n_cols // BLOCK))[None, :],
                NESTED,
                BLOCK2,
            )
            values = look_up(unpack(words), code_ptr)
            products = values[None, :, :, :] * tl.reshape(x, [M, 1, WORDS, 8])
            absmax = tl.broadcast_to(absmax[:, :, None], [ROWS, SPAN, BLOCK // 8])
            sums += tl.sum(products, axis=3) * tl.reshape(absmax, [1, ROWS, WORDS])
        else:
            weights = load_any(
                packed_ptr,
                absmax_ptr,
                absmax2_ptr,
                code2_ptr,
                offset_ptr,
                code_ptr,
                row * n_cols,
                rows[:, None] * n_cols + cols[None, :],
                mask[:, None] & (cols < n_cols)[None, :],
                NESTED,
                BLOCK,
                BLOCK2,
            )
            sums += weights[None, :, :] * x[:, None, :]

    out = tl.sum(sums, axis=2)
    if RANK:
        xa = xa.to(tl.float32)  # pyright: ignore[reportPossiblyUnboundVariable]
        lora_b = lora_b.to(tl.float32)  # pyright: ignore[reportPossiblyUnboundVariable]
        adapter = tl.sum(xa[:, None, :] * lora_b[None, :, :], axis=2)
        out += tl.cast(scaling, tl.float32) * adapter
    if BIAS:
        out += bias.to(tl.float32)[None, :]  # pyright: ignore[reportPossiblyUnboundVariable]
    out_ptrs = out_ptr + row + x_rows[:, None] * n_rows + rows[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=x_mask[:, None] & mask[None, :])


def _tile(weight: NF4Weight, m: int) -> tuple[int, int]:
    """Rows of W and columns of one step, for `m` rows of x (a power of two).

    Up to four rows, as many as leave six programs for each processor: x is loaded and widened once
    for all of them. Each row of x takes registers for its products, so the step gets shorter. A
    step that divides K needs no masks; a masked one is taken only where that would be short.
    """
    n_rows, n_cols = weight.shape
    rows = 4
    while rows > 1 and n_rows < 6 * processors(weight.device) * rows:
        rows //= 2
    step = min(_STEP, _PRODUCTS // (m * rows))
    cols = math.gcd(n_cols, step)
    if cols < step // 2:
        cols = min(step, triton.next_power_of_2(n_cols))
    return rows, max(cols, weight.block_size)


def gemv_nf4(
    x: Tensor,
    weight: NF4Weight,
    *,
    bias: Tensor | None = None,
    xa: Tensor | None = None,
    lora_b: Tensor | None = None,
    scaling: float = 1.0,
) -> Tensor:
    """``x W^T + bias + scaling * xa lora_b^T`` for a few rows of x, without writing W out.

    Args:
        x: ``[..., K]``, 0 to 8 rows in all, any strides, fp32, bf16 or fp16 (others take the
            reference).
        weight: ``[N, K]``, of any shape.
        bias: ``[N]``, any of these dtypes.
        xa: ``[..., r]``, x times lora_A^T, rows as in x; given together with `lora_b`.
        lora_b: ``[N, r]``.
        scaling: lora_alpha / r (with rsLoRA / sqrt(r)).

    Returns:
        ``[..., N]``, contiguous, in the dtype of x, added up in fp32 and rounded once.

    Raises:
        ValueError: shapes that do not fit together, more than 8 rows, or only one of `xa` and
            `lora_b`.
        RuntimeError: gradients are enabled and an operand requires one: there is no backward.
    """
    n_rows, n_cols = weight.shape
    given = [t for t in (x, bias, xa, lora_b) if t is not None]
    if x.dim() == 0 or x.shape[-1] != n_cols:
        raise ValueError(f"gemv_nf4: x is {tuple(x.shape)}, weight is {weight.shape}")
    m = math.prod(x.shape[:-1])
    if m > MAX_ROWS:
        raise ValueError(f"gemv_nf4: x has {m} rows, takes at most {MAX_ROWS}")
    if bias is not None and bias.shape != (n_rows,):
        raise ValueError(f"gemv_nf4: bias is {tuple(bias.shape)}, weight is {weight.shape}")
    if (xa is None) != (lora_b is None):
        raise ValueError("gemv_nf4: xa and lora_b go together")
    if xa is not None and lora_b is not None:
        rank = lora_b.shape[-1]
        if lora_b.shape != (n_rows, rank) or xa.shape != (*x.shape[:-1], rank):
            raise ValueError(
                f"gemv_nf4: xa is {tuple(xa.shape)}, lora_b is {tuple(lora_b.shape)}, "
                f"x is {tuple(x.shape)}, weight is {weight.shape}"
            )
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise RuntimeError("gemv_nf4: has no backward; call it under torch.no_grad()")
    if not takes_triton(*given, weight.code):
        return gemv_nf4_reference(x, weight, bias, xa, lora_b, scaling)

    x_rows = as_rows(x)
    out = torch.empty((*x.shape[:-1], n_rows), dtype=x.dtype, device=x.device)
    padded = triton.next_power_of_2(m)
    rows, cols = _tile(weight, padded)
    words, (packed, *rest) = words_of(weight), operands(weight)
    whole = words is not None and cols <= _STEP
    if not whole:
        cols = min(256, _ANY_PRODUCTS // (padded * rows))
    rank = 0 if xa is None else xa.shape[-1]
    with launch_on(x):
        _gemv_nf4_kernel[(triton.cdiv(n_rows, rows),)](
            x_rows,
            words if whole else packed,
            *rest,
            x if bias is None else bias.contiguous(),
            x if xa is None else xa.contiguous(),
            x if lora_b is None else lora_b.contiguous(),
            out,
            x_rows.stride(0),
            m,
            n_rows,
            n_cols,
            rank,
            scaling,
            NESTED=weight.nested,
            BLOCK=weight.block_size,
            BLOCK2=weight.block_size2,
            WHOLE=whole,
            M=padded,
            ROWS=rows,
            COLS=cols,
            RANK=triton.next_power_of_2(rank) if rank else 0,
            BIAS=bias is not None,
            EVEN=m == padded and n_rows % rows == 0 and n_cols % cols == 0,
            STAGES=3 if padded <= 2 else 2,
            num_warps=1,
            **COMPILE_OPTIONS,
        )
    return out
