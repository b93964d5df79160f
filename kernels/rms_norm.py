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

A transformer adds each block's output to the residual stream and norms the sum: `add_rms_norm` does
both in one pass over memory, rounding the sum as eager does, and its backward adds the gradient that
comes down the stream itself. That gradient is one tensor for both summands.

`rms_norm_forward` and `rms_norm_backward` work without autograd and into given memory, for blocks with
a backward of their own; where Triton does not run they compute the same in plain torch.

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


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float, *, unit_offset: bool = False) -> Tensor:
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
    residual_ptr,  # [n_rows, n_cols], rows residual_stride apart; not touched without RESIDUAL
    weight_ptr,  # [n_cols]
    out_ptr,  # [n_rows, n_cols], rows out_stride apart
    total_ptr,  # [n_rows, n_cols], contiguous; not touched without RESIDUAL
    rstd_ptr,  # [n_rows], fp32
    x_stride,
    residual_stride,
    out_stride,
    n_rows,
    n_cols,
    eps,
    RESIDUAL: tl.constexpr,
    UNIT_OFFSET: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    cols = tl.arange(0, BLOCK_COLS)
    mask = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]

    x = tl.load(x_ptr + rows[:, None] * x_stride + cols[None, :], mask=mask, other=0.0)
    if RESIDUAL:
        residual_ptrs = residual_ptr + rows[:, None] * residual_stride + cols[None, :]
        residual = tl.load(residual_ptrs, mask=mask, other=0.0).to(tl.float32)
        x = (x.to(tl.float32) + residual).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + rows[:, None] * n_cols + cols[None, :], x, mask=mask)
    weight = tl.load(weight_ptr + cols, mask=cols < n_cols, other=0.0).to(tl.float32)[None, :]
    wide = x.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(wide * wide, axis=1) / n_cols + tl.cast(eps, tl.float32))
    normed = wide * rstd[:, None]
    out = normed * (1.0 + weight) if UNIT_OFFSET else normed.to(x.dtype).to(tl.float32) * weight

    tl.store(rstd_ptr + rows, rstd, mask=rows < n_rows)
    out_ptrs = out_ptr + rows[:, None] * out_stride + cols[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["n_rows"])
def _rms_norm_backward_kernel(
    dout_ptr,  # [n_rows, n_cols], rows dout_stride apart
    x_ptr,  # [n_rows, n_cols], rows x_stride apart
    weight_ptr,  # [n_cols]
    rstd_ptr,  # [n_rows], fp32
    dtotal_ptr,  # [n_rows, n_cols], rows dtotal_stride apart; not touched without RESIDUAL
    dx_ptr,  # [n_rows, n_cols], rows dx_stride apart
    dweight_ptr,  # [programs, n_cols], fp32; not touched without WEIGHT_GRAD
    dout_stride,
    x_stride,
    dtotal_stride,
    dx_stride,
    n_rows,
    n_cols,
    RESIDUAL: tl.constexpr,
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
        if RESIDUAL:
            dtotal_ptrs = dtotal_ptr + rows[:, None] * dtotal_stride + cols[None, :]
            dx += tl.load(dtotal_ptrs, mask=mask, other=0.0).to(tl.float32)
        dx_ptrs = dx_ptr + rows[:, None] * dx_stride + cols[None, :]
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


def rms_norm_forward(
    x: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor,
    *,
    residual: Tensor | None = None,
    total: Tensor | None = None,
    unit_offset: bool = False,
) -> Tensor:
    """`rms_norm`, or with `residual` `add_rms_norm`, without autograd and into given memory.

    Args:
        x, residual: ``[rows, hidden]``, rows any distance apart.
        weight: ``[hidden]``, contiguous.
        out: ``[rows, hidden]``, rows any distance apart, as in a wider buffer.
        total: ``[rows, hidden]``, contiguous: gets ``x + residual``.

    Returns:
        ``[rows]`` fp32, one over the root mean square: what `rms_norm_backward` needs.
    """
    n_rows, n_cols = x.shape
    if not _fits_triton(x, weight):
        if residual is not None:
            assert total is not None
            x = torch.add(x, residual, out=total)
        out.copy_(rms_norm_reference(x, weight, eps, unit_offset=unit_offset))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.rsqrt(wide.pow(2).mean(-1) + eps)
    rstd = torch.empty(n_rows, dtype=torch.float32, device=x.device)
    block_rows, block_cols = _tile(n_cols)
    with launch_on(x):
        _rms_norm_forward_kernel[(triton.cdiv(n_rows, block_rows),)](
            x,
            x if residual is None else residual,
            weight,
            out,
            out if total is None else total,
            rstd,
            x.stride(0),
            0 if residual is None else residual.stride(0),
            out.stride(0),
            n_rows,
            n_cols,
            eps,
            RESIDUAL=residual is not None,
            UNIT_OFFSET=unit_offset,
            BLOCK_ROWS=block_rows,
            BLOCK_COLS=block_cols,
            num_warps=warps_for(block_rows * block_cols),
            **COMPILE_OPTIONS,
        )
    return rstd


def rms_norm_backward(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    *,
    dtotal: Tensor | None = None,
    dx: Tensor | None = None,
    unit_offset: bool = False,
    weight_grad: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of `rms_norm_forward`, without autograd.

    Args:
        dout: ``[rows, hidden]``, the gradient of `out`, rows any distance apart.
        x: what was normed, ``[rows, hidden]``: with a residual, the total.
        rstd: what the forward returned.
        dtotal: ``[rows, hidden]``, the gradient that reaches the total by other ways; it is added.
        dx: ``[rows, hidden]`` in the dtype of x, rows any distance apart, to write to (it may be
            `dout` or `dtotal`); None: a new contiguous tensor.

    Returns:
        The gradient of x (and of the residual), and, with `weight_grad`, the weight's in its dtype.
    """
    n_rows, n_cols = x.shape
    if dx is None:
        dx = torch.empty((n_rows, n_cols), dtype=x.dtype, device=x.device)
    if not _fits_triton(x, weight):
        grad, dweight = _backward_in_torch(dout, x, weight, rstd, dtotal, unit_offset, weight_grad)
        return dx.copy_(grad), dweight
    block_rows, block_cols = _tile(n_cols)
    programs = triton.cdiv(n_rows, block_rows)
    partials = dx
    if weight_grad:
        programs = min(programs, 4 * processors(x.device))
        partials = torch.empty((programs, n_cols), dtype=torch.float32, device=x.device)
    with launch_on(x):
        _rms_norm_backward_kernel[(programs,)](
            dout,
            x,
            weight,
            rstd,
            dout if dtotal is None else dtotal,
            dx,
            partials,
            dout.stride(0),
            x.stride(0),
            0 if dtotal is None else dtotal.stride(0),
            dx.stride(0),
            n_rows,
            n_cols,
            RESIDUAL=dtotal is not None,
            UNIT_OFFSET=unit_offset,
            WEIGHT_GRAD=weight_grad,
            BLOCK_ROWS=block_rows,
            BLOCK_COLS=block_cols,
            num_warps=warps_for(block_rows * block_cols),
            **COMPILE_OPTIONS,
        )
    return dx, partials.sum(0).to(weight.dtype) if weight_grad else None


def _backward_in_torch(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    dtotal: Tensor | None,
    unit_offset: bool,
    weight_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = x.to(wide) * rstd[:, None]
    dout = dout.to(wide)
    dnormed = dout * (1.0 + weight.to(wide) if unit_offset else weight.to(wide))
    dx = rstd[:, None] * (dnormed - normed * (dnormed * normed).mean(-1, keepdim=True))
    if dtotal is not None:
        dx = dx + dtotal
    dweight = (dout * normed).sum(0).to(weight.dtype) if weight_grad else None
    return dx, dweight


def _fits_triton(x: Tensor, weight: Tensor) -> bool:
    return takes_triton(x, weight) and x.shape[-1] <= MAX_COLUMNS


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
        rows, weight = as_rows(x), weight.contiguous()
        dtype = x.dtype if unit_offset else torch.promote_types(x.dtype, weight.dtype)
        out = torch.empty(rows.shape, dtype=dtype, device=x.device)
        rstd = rms_norm_forward(rows, weight, eps, out, unit_offset=unit_offset)
        ctx.save_for_backward(rows, weight, rstd)
        ctx.unit_offset = unit_offset
        ctx.shape = x.shape
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight, rstd = ctx.saved_tensors
        dx, dweight = rms_norm_backward(
            as_rows(dout), rows, weight, rstd,
            unit_offset=ctx.unit_offset, weight_grad=ctx.needs_input_grad[1],
        )  # fmt: skip
        return dx.view(ctx.shape), dweight, None, None


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, residual: Tensor, weight: Tensor, eps: float, unit_offset: bool
    ) -> tuple[Tensor, Tensor]:
        rows, weight = as_rows(x), weight.contiguous()
        dtype = x.dtype if unit_offset else torch.promote_types(x.dtype, weight.dtype)
        out = torch.empty(rows.shape, dtype=dtype, device=x.device)
        total = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
        rstd = rms_norm_forward(
            rows, weight, eps, out,
            residual=as_rows(residual), total=total, unit_offset=unit_offset,
        )  # fmt: skip
        ctx.save_for_backward(total, weight, rstd)
        ctx.unit_offset = unit_offset
        return out.view(x.shape), total.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor, dtotal: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        total, weight, rstd = ctx.saved_tensors
        dx, dweight = rms_norm_backward(
            as_rows(dout), total, weight, rstd,
            dtotal=as_rows(dtotal), unit_offset=ctx.unit_offset,
            weight_grad=ctx.needs_input_grad[2],
        )  # fmt: skip
        dx = dx.view(dout.shape)
        return dx, dx, dweight, None, None


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
    _check_weight("rms_norm", x, weight)
    if _fits_triton(x, weight):
        out = _RMSNorm.apply(x, weight, eps, unit_offset)
        assert isinstance(out, Tensor)  # apply() is typed as returning anything
        return out
    return rms_norm_reference(x, weight, eps, unit_offset=unit_offset)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, unit_offset: bool = False
) -> tuple[Tensor, Tensor]:
    """Add `x` to the residual stream and norm the sum, in one pass.

    Args:
        x, residual: ``[..., hidden]`` of one shape and dtype, any strides.
        weight, eps, unit_offset: as in `rms_norm`.

    Returns:
        ``rms_norm(total, ...)`` and ``total = x + residual``, rounded to the dtype of x.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    _check_weight("add_rms_norm", x, weight)
    if x.shape != residual.shape or x.dtype != residual.dtype:
        raise ValueError(
            f"add_rms_norm: x and residual must be alike; x is {tuple(x.shape)} {x.dtype}, "
            f"residual is {tuple(residual.shape)} {residual.dtype}"
        )
    if _fits_triton(x, weight):
        out, total = _AddRMSNorm.apply(x, residual, weight, eps, unit_offset)  # pyright: ignore[reportGeneralTypeIssues]
        return out, total
    total = x + residual
    return rms_norm_reference(total, weight, eps, unit_offset=unit_offset), total


def _check_weight(op: str, x: Tensor, weight: Tensor) -> None:
    if x.dim() == 0 or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"{op}: weight must have the shape of x's last dimension; "
            f"x is {tuple(x.shape)}, weight is {tuple(weight.shape)}"
        )
