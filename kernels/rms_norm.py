"""RMSNorm, forward and backward, with the two ways in which model families round.

With h = x / sqrt(mean(x^2) + eps), in fp32:

* plain (Llama, Mistral, Qwen, Phi-3, ...):  ``weight * h.to(x.dtype)``. The result has the dtype
  that torch promotes weight and x to: fp32 weights over bf16 activations give fp32, as in
  transformers.
* unit offset (Gemma 1 to 3):                ``(h * (1 + weight)).to(x.dtype)``, multiplied in fp32.

The backward keeps fp32 between its loads and stores, so it rounds once where eager rounds three
times. With g = dout * weight it is dx = (g - h * mean(g * h)) / sqrt(mean(x^2) + eps); only x and
one fp32 number for each row are saved. Fine-tuning freezes the norm weights, so their gradient is
computed only when somebody asks for it: each program sums the rows that it walks over into a row of
its own, and torch adds these rows up. No atomics: the same input gives the same bits on the same
device.

A program holds whole rows, several of them if they are short (the per-head norms of Qwen 3).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import (
    COMPILE_OPTIONS,
    as_rows,
    jit,
    launch_on,
    processors,
    takes_triton,
    tl,
    triton,
    warps_for,
)

MAX_COLUMNS = 16384
"""The widest row that a program holds in registers; wider ones take the reference."""

_TILE = 2048
"""Values of a program's tile where several rows share one."""


def rms_norm_reference(
    x: Tensor, weight: Tensor, eps: float, *, unit_offset: bool = False
) -> Tensor:
    """RMSNorm in plain torch; see `rms_norm`. float64 inputs are normalised in float64, all others
    in float32.

    Source: ``LlamaRMSNorm`` and ``GemmaRMSNorm`` of transformers.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if unit_offset:
        return (normed * (1.0 + weight.to(normed.dtype))).to(x.dtype)
    return weight * normed.to(x.dtype)


@jit(do_not_specialize=["n_rows"])
def _rms_norm_forward_kernel(
    x_ptr,  # [n_rows, n_cols], rows x_stride apart
    weight_ptr,  # [n_cols]
    out_ptr,  # [n_rows, n_cols], contiguous
    rstd_ptr,  # [n_rows], fp32
    x_stride,
    n_rows,
    n_cols,
    eps,
    UNIT_OFFSET: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    cols = tl.arange(0, BLOCK_COLS)
    mask = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]

    x = tl.load(x_ptr + rows[:, None] * x_stride + cols[None, :], mask=mask, other=0.0)
    weight = tl.load(weight_ptr + cols, mask=cols < n_cols, other=0.0).to(tl.float32)[None, :]
    wide = x.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(wide * wide, axis=1) / n_cols + tl.cast(eps, tl.float32))
    normed = wide * rstd[:, None]
    out = normed * (1.0 + weight) if UNIT_OFFSET else normed.to(x.dtype).to(tl.float32) * weight

    tl.store(rstd_ptr + rows, rstd, mask=rows < n_rows)
    out_ptrs = out_ptr + rows[:, None] * n_cols + cols[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["n_rows"])
def _rms_norm_backward_kernel(
    dout_ptr,  # [n_rows, n_cols], rows dout_stride apart
    x_ptr,  # [n_rows, n_cols], rows x_stride apart
    weight_ptr,  # [n_cols]
    rstd_ptr,  # [n_rows], fp32
    dx_ptr,  # [n_rows, n_cols], contiguous
    dweight_ptr,  # [programs, n_cols], fp32; not touched without WEIGHT_GRAD
    dout_stride,
    x_stride,
    n_rows,
    n_cols,
    UNIT_OFFSET: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    cols = tl.arange(0, BLOCK_COLS)
    weight = tl.load(weight_ptr + cols, mask=cols < n_cols, other=0.0).to(tl.float32)[None, :]
    if UNIT_OFFSET:
        weight = 1.0 + weight
    dweight = tl.zeros([BLOCK_ROWS, BLOCK_COLS], dtype=tl.float32)

    # One turn without WEIGHT_GRAD; with it, a share of all blocks, so that few partial sums remain.
    for block in range(tl.program_id(0), tl.cdiv(n_rows, BLOCK_ROWS), tl.num_programs(0)):
        rows = tl.cast(block, tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
        x_ptrs = x_ptr + rows[:, None] * x_stride + cols[None, :]
        dout_ptrs = dout_ptr + rows[:, None] * dout_stride + cols[None, :]
        x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
        dout = tl.load(dout_ptrs, mask=mask, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + rows, mask=rows < n_rows, other=0.0)[:, None]

        normed = x * rstd
        dnormed = dout * weight
        projection = tl.sum(dnormed * normed, axis=1, keep_dims=True) / n_cols
        dx = rstd * (dnormed - normed * projection)
        dx_ptrs = dx_ptr + rows[:, None] * n_cols + cols[None, :]
        tl.store(dx_ptrs, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if WEIGHT_GRAD:
            dweight += dout * normed

    if WEIGHT_GRAD:
        partial = tl.program_id(0).to(tl.int64) * n_cols + cols
        tl.store(dweight_ptr + partial, tl.sum(dweight, axis=0), mask=cols < n_cols)


def _tile(n_cols: int) -> tuple[int, int]:
    """Rows and columns of one program's tile."""
    block_cols = triton.next_power_of_2(n_cols)
    return max(1, _TILE // block_cols), block_cols


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
        rows, weight = as_rows(x), weight.contiguous()
        n_rows, n_cols = rows.shape
        dtype = x.dtype if unit_offset else torch.promote_types(x.dtype, weight.dtype)
        out = torch.empty((n_rows, n_cols), dtype=dtype, device=x.device)
        rstd = torch.empty(n_rows, dtype=torch.float32, device=x.device)
        block_rows, block_cols = _tile(n_cols)
        with launch_on(x):
            _rms_norm_forward_kernel[(triton.cdiv(n_rows, block_rows),)](
                rows,
                weight,
                out,
                rstd,
                rows.stride(0),
                n_rows,
                n_cols,
                eps,
                UNIT_OFFSET=unit_offset,
                BLOCK_ROWS=block_rows,
                BLOCK_COLS=block_cols,
                num_warps=warps_for(block_rows * block_cols),
                **COMPILE_OPTIONS,
            )
        ctx.save_for_backward(rows, weight, rstd)
        ctx.unit_offset = unit_offset
        ctx.shape = x.shape
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight, rstd = ctx.saved_tensors
        dout = as_rows(dout)
        n_rows, n_cols = rows.shape
        weight_grad = ctx.needs_input_grad[1]
        block_rows, block_cols = _tile(n_cols)
        programs = triton.cdiv(n_rows, block_rows)
        dx = torch.empty((n_rows, n_cols), dtype=rows.dtype, device=rows.device)
        partials = dx
        if weight_grad:
            programs = min(programs, 4 * processors(rows.device))
            partials = torch.empty((programs, n_cols), dtype=torch.float32, device=rows.device)
        with launch_on(rows):
            _rms_norm_backward_kernel[(programs,)](
                dout,
                rows,
                weight,
                rstd,
                dx,
                partials,
                dout.stride(0),
                rows.stride(0),
                n_rows,
                n_cols,
                UNIT_OFFSET=ctx.unit_offset,
                WEIGHT_GRAD=weight_grad,
                BLOCK_ROWS=block_rows,
                BLOCK_COLS=block_cols,
                num_warps=warps_for(block_rows * block_cols),
                **COMPILE_OPTIONS,
            )
        dweight = partials.sum(0).to(weight.dtype) if weight_grad else None
        return dx.view(ctx.shape), dweight, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, unit_offset: bool = False) -> Tensor:
    """Normalise the last dimension of `x` by its root mean square, and scale it.

    Args:
        x: ``[..., hidden]``, any strides, fp32, bf16 or fp16 (float64 takes the reference); may
            have no rows.
        weight: ``[hidden]``. Its gradient is computed only if it requires one.
        eps: added to the mean square.
        unit_offset: scale by ``1 + weight`` in fp32 before rounding (Gemma), not by ``weight``
            after it.

    Returns:
        ``[..., hidden]``, contiguous where Triton ran; the dtype of `x` with `unit_offset`, else
        the promotion of both dtypes.

    Raises:
        ValueError: `weight` is not as long as the last dimension of `x`.
    """
    if x.dim() == 0 or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"rms_norm: weight must have the shape of x's last dimension; "
            f"x is {tuple(x.shape)}, weight is {tuple(weight.shape)}"
        )
    if takes_triton(x, weight) and x.shape[-1] <= MAX_COLUMNS:
        out = _RMSNorm.apply(x, weight, eps, unit_offset)
        assert isinstance(out, Tensor)  # apply() is typed as returning anything
        return out
    return rms_norm_reference(x, weight, eps, unit_offset=unit_offset)
