"""SwiGLU: ``silu(gate) * up``, forward and backward in one launch each.

silu is taken in fp32 and rounded to the dtype of gate before the product, as eager rounds it. Only
gate and up are saved; the backward recomputes silu, which costs nothing beside reading gate, and
stays in fp32 until it stores. Gate and up may be two slices of one fused projection: rows may lie
any distance apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import COMPILE_OPTIONS, as_rows, jit, launch_on, takes_triton, tl, triton

_BLOCK = 1024
"""Columns of one program at most: 4 warps with one full-width load of bf16 a thread and operand."""

_WARPS = 4


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` in plain torch; see `swiglu`. Source: ``LlamaMLP`` of transformers."""
    return F.silu(gate) * up


@jit()
def _swiglu_forward_kernel(
    gate_ptr,  # [rows, n_cols], rows gate_stride apart
    up_ptr,  # [rows, n_cols], rows up_stride apart
    out_ptr,  # [rows, n_cols], contiguous
    gate_stride,
    up_stride,
    n_cols,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(n_cols, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    cols = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < n_cols

    gate = tl.load(gate_ptr + row * gate_stride + cols, mask=mask, other=0.0)
    up = tl.load(up_ptr + row * up_stride + cols, mask=mask, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    silu = wide / (1.0 + tl.exp(-wide))
    out = silu.to(gate.dtype).to(tl.float32) * up
    tl.store(out_ptr + row * n_cols + cols, out.to(out_ptr.dtype.element_ty), mask=mask)


@jit()
def _swiglu_backward_kernel(
    dout_ptr,  # [rows, n_cols], rows dout_stride apart
    gate_ptr,  # [rows, n_cols], rows gate_stride apart
    up_ptr,  # [rows, n_cols], rows up_stride apart
    dgate_ptr,  # [rows, n_cols], contiguous
    dup_ptr,  # [rows, n_cols], contiguous
    dout_stride,
    gate_stride,
    up_stride,
    n_cols,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(n_cols, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    cols = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < n_cols

    dout = tl.load(dout_ptr + row * dout_stride + cols, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_stride + cols, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + cols, mask=mask, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    dup = dout * gate * sigmoid
    dgate = dout * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    out = row * n_cols + cols
    tl.store(dgate_ptr + out, dgate.to(dgate_ptr.dtype.element_ty), mask=mask)
    tl.store(dup_ptr + out, dup.to(dup_ptr.dtype.element_ty), mask=mask)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        shape = gate.shape
        gate, up = as_rows(gate), as_rows(up)
        n_rows, n_cols = gate.shape
        out = torch.empty(
            (n_rows, n_cols),
            dtype=torch.promote_types(gate.dtype, up.dtype),
            device=gate.device,
        )
        block = min(_BLOCK, triton.next_power_of_2(n_cols))
        with launch_on(gate):
            _swiglu_forward_kernel[(n_rows * triton.cdiv(n_cols, block),)](
                gate,
                up,
                out,
                gate.stride(0),
                up.stride(0),
                n_cols,
                BLOCK=block,
                num_warps=_WARPS,
                **COMPILE_OPTIONS,
            )
        ctx.save_for_backward(gate, up)
        ctx.shape = shape
        return out.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        dout = as_rows(dout)
        n_rows, n_cols = gate.shape
        dgate = torch.empty((n_rows, n_cols), dtype=gate.dtype, device=gate.device)
        dup = torch.empty((n_rows, n_cols), dtype=up.dtype, device=up.device)
        block = min(_BLOCK, triton.next_power_of_2(n_cols))
        with launch_on(gate):
            _swiglu_backward_kernel[(n_rows * triton.cdiv(n_cols, block),)](
                dout,
                gate,
                up,
                dgate,
                dup,
                dout.stride(0),
                gate.stride(0),
                up.stride(0),
                n_cols,
                BLOCK=block,
                num_warps=_WARPS,
                **COMPILE_OPTIONS,
            )
        return dgate.view(ctx.shape), dup.view(ctx.shape)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, elementwise.

    Args:
        gate: ``[..., intermediate]``, any strides, fp32, bf16 or fp16 (float64 takes the
            reference).
        up: the same shape; its dtype may differ.

    Returns:
        The same shape, contiguous where Triton ran, in the dtype that torch promotes gate and up
        to.

    Raises:
        ValueError: the shapes differ, or there is no dimension.
    """
    if gate.shape != up.shape or gate.dim() == 0:
        raise ValueError(
            f"swiglu: gate and up must have one shape; "
            f"gate is {tuple(gate.shape)}, up is {tuple(up.shape)}"
        )
    if takes_triton(gate, up):
        out = _SwiGLU.apply(gate, up)
        assert isinstance(out, Tensor)  # apply() is typed as returning anything
        return out
    return swiglu_reference(gate, up)
