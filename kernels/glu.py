"""Gated linear units: ``activation(gate) * up``, forward and backward in one launch each.

The activations are silu (SwiGLU: Llama, Mistral, Qwen, ...) and gelu (GeGLU: the Gemmas), the
latter by its tanh approximation or exactly, through erf. The activation is taken in fp32 and
rounded to the dtype of gate before the product, as eager rounds it. Only gate and up are saved; the
backward recomputes the activation, which costs nothing beside reading gate, and stays in fp32 until
it stores.

silu and the approximated gelu are both ``x * sigmoid(z)``: z is x for silu, and for gelu
2 sqrt(2/pi) (x + 0.044715 x^3), because (1 + tanh(u)) / 2 = sigmoid(2 u). So no tanh is needed, and
the left tail keeps its relative precision, which ``1 + tanh`` loses.

Operands may be column slices of wider buffers (gate and up of one fused projection): rows may lie
any distance apart. A program loads all it needs of a block of columns before it stores anything
there, so the backward may write its results over its operands, and can write the forward's product
once more for callers that did not keep it. Both kernels then call the same function for the
activation, spelt with explicit fma so that the compiler has no choice in how it rounds: the product
has the same bits both times.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import COMPILE_OPTIONS, as_rows, jit, launch_on, takes_triton, tl, triton

Activation = Literal["silu", "gelu_tanh", "gelu"]
"""What is applied to gate: silu, gelu by its tanh approximation, gelu through erf."""

_BLOCK = 1024
"""Columns of one program at most: 4 warps with one full-width load of bf16 a thread and operand."""

_WARPS = 4


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` in plain torch; see `swiglu`. Source: ``LlamaMLP`` of transformers."""
    return F.silu(gate) * up


def geglu_reference(gate: Tensor, up: Tensor, tanh: bool = True) -> Tensor:
    """``gelu(gate) * up`` in plain torch; see `geglu`. Source: ``Gemma2MLP`` of transformers."""
    return F.gelu(gate, approximate="tanh" if tanh else "none") * up


@jit()
def _activate(x, ACTIVATION: tl.constexpr):
    """The activation of the fp32 block `x`, and its derivative."""
    if ACTIVATION == "gelu":
        cdf = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
        density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
        value = x * cdf
        slope = tl.fma(x, density, cdf)
    else:
        if ACTIVATION == "gelu_tanh":
            # Beyond 20 the sigmoid is 0 or 1; without the bounds the derivative of z overflows for
            # huge x, and 0 times infinity is no number.
            bounded = tl.minimum(tl.maximum(x, -20.0), 20.0)
            square = bounded * bounded
            # 2 sqrt(2/pi), and 0.044715 times that.
            z = bounded * tl.fma(square, 0.07135481627260025, 1.5957691216057308)
            dz = tl.fma(square, 0.21406444881780076, 1.5957691216057308)
        else:
            tl.static_assert(ACTIVATION == "silu")
            z = x
            dz = 1.0
        exp = tl.exp(-z)
        sigmoid = 1.0 / (1.0 + exp)
        # 1 - sigmoid has few digits left where the sigmoid nears 1, and x dz magnifies the loss; the
        # other form is no number where exp is infinite.
        complement = tl.where(x > 0, exp * sigmoid, 1.0 - sigmoid)
        value = x * sigmoid
        slope = tl.fma(value * complement, dz, sigmoid)
    return value, slope


@jit()
def _glu_forward_kernel(
    gate_ptr,  # [rows, n_cols], rows gate_stride apart
    up_ptr,  # [rows, n_cols], rows up_stride apart
    out_ptr,  # [rows, n_cols], rows out_stride apart
    gate_stride,
    up_stride,
    out_stride,
    n_cols,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(n_cols, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    cols = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < n_cols

    gate = tl.load(gate_ptr + row * gate_stride + cols, mask=mask, other=0.0)
    up = tl.load(up_ptr + row * up_stride + cols, mask=mask, other=0.0).to(tl.float32)
    value, _ = _activate(gate.to(tl.float32), ACTIVATION)
    out = value.to(gate.dtype).to(tl.float32) * up
    tl.store(out_ptr + row * out_stride + cols, out.to(out_ptr.dtype.element_ty), mask=mask)


@jit()
def _glu_backward_kernel(
    dout_ptr,  # [rows, n_cols], rows dout_stride apart
    gate_ptr,  # [rows, n_cols], rows gate_stride apart
    up_ptr,  # [rows, n_cols], rows up_stride apart
    dgate_ptr,  # [rows, n_cols], rows dgate_stride apart; may be gate_ptr
    dup_ptr,  # [rows, n_cols], rows dup_stride apart; may be up_ptr
    out_ptr,  # [rows, n_cols], rows out_stride apart; not touched without WRITE_OUT
    dout_stride,
    gate_stride,
    up_stride,
    dgate_stride,
    dup_stride,
    out_stride,
    n_cols,
    ACTIVATION: tl.constexpr,
    WRITE_OUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(n_cols, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    cols = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < n_cols

    # Everything is loaded before anything is stored: results may lie where operands do.
    dout = tl.load(dout_ptr + row * dout_stride + cols, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_stride + cols, mask=mask, other=0.0)
    up = tl.load(up_ptr + row * up_stride + cols, mask=mask, other=0.0).to(tl.float32)
    value, slope = _activate(gate.to(tl.float32), ACTIVATION)
    dgate = dout * up * slope
    dup = dout * value
    tl.store(dgate_ptr + row * dgate_stride + cols, dgate.to(dgate_ptr.dtype.element_ty), mask=mask)
    tl.store(dup_ptr + row * dup_stride + cols, dup.to(dup_ptr.dtype.element_ty), mask=mask)
    if WRITE_OUT:
        out = value.to(gate.dtype).to(tl.float32) * up
        tl.store(out_ptr + row * out_stride + cols, out.to(out_ptr.dtype.element_ty), mask=mask)


def glu_forward(gate: Tensor, up: Tensor, out: Tensor, activation: Activation) -> None:
    """Write ``activation(gate) * up`` into `out`; raw: no checks, no autograd, Triton only.

    Args:
        gate, up: ``[rows, columns]`` with adjacent columns and rows any distance apart, fp32, bf16
            or fp16, on one device.
        out: the same shape and kind of layout, of any of these dtypes; may be `gate` or `up`.
        activation: see `Activation`.
    """
    n_rows, n_cols = gate.shape
    if not gate.numel():
        return
    block = min(_BLOCK, triton.next_power_of_2(n_cols))
    with launch_on(gate):
        _glu_forward_kernel[(n_rows * triton.cdiv(n_cols, block),)](
            gate,
            up,
            out,
            gate.stride(0),
            up.stride(0),
            out.stride(0),
            n_cols,
            ACTIVATION=activation,
            BLOCK=block,
            num_warps=_WARPS,
            **COMPILE_OPTIONS,
        )


def glu_backward(
    dout: Tensor,
    gate: Tensor,
    up: Tensor,
    dgate: Tensor,
    dup: Tensor,
    activation: Activation,
    out: Tensor | None = None,
) -> None:
    """Write the gradients of gate and up, given that of the product; raw: no checks, no autograd,
    Triton only.

    Args:
        dout, gate, up: ``[rows, columns]`` with adjacent columns and rows any distance apart, fp32,
            bf16 or fp16, on one device.
        dgate, dup: the same shape and kind of layout, written. Each may be the same memory as an
            operand, element for element: ``dgate is gate`` and ``dup is up`` work in place.
        activation: see `Activation`.
        out: if given, the product is written here too, in the bits of `glu_forward` for an `out`
            of this dtype; may be `dout`.
    """
    n_rows, n_cols = gate.shape
    if not gate.numel():
        return
    product = dgate if out is None else out
    block = min(_BLOCK, triton.next_power_of_2(n_cols))
    with launch_on(gate):
        _glu_backward_kernel[(n_rows * triton.cdiv(n_cols, block),)](
            dout,
            gate,
            up,
            dgate,
            dup,
            product,
            dout.stride(0),
            gate.stride(0),
            up.stride(0),
            dgate.stride(0),
            dup.stride(0),
            product.stride(0),
            n_cols,
            ACTIVATION=activation,
            WRITE_OUT=out is not None,
            BLOCK=block,
            num_warps=_WARPS,
            **COMPILE_OPTIONS,
        )


class _GLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        shape = gate.shape
        gate, up = as_rows(gate), as_rows(up)
        dtype = torch.promote_types(gate.dtype, up.dtype)
        out = torch.empty(gate.shape, dtype=dtype, device=gate.device)
        glu_forward(gate, up, out, activation)
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        ctx.shape = shape
        return out.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        dgate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        dup = torch.empty(gate.shape, dtype=up.dtype, device=gate.device)
        glu_backward(as_rows(dout), gate, up, dgate, dup, ctx.activation)
        return dgate.view(ctx.shape), dup.view(ctx.shape), None


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
    _check("swiglu", gate, up)
    if takes_triton(gate, up):
        return _apply(gate, up, "silu")
    return swiglu_reference(gate, up)


def geglu(gate: Tensor, up: Tensor, tanh: bool = True) -> Tensor:
    """``gelu(gate) * up``, elementwise.

    Args:
        gate: ``[..., intermediate]``, any strides, fp32, bf16 or fp16 (float64 takes the
            reference).
        up: the same shape; its dtype may differ.
        tanh: approximate gelu through tanh (``gelu_pytorch_tanh`` in model configurations), rather
            than take it exactly, through erf (``gelu``).

    Returns:
        The same shape, contiguous where Triton ran, in the dtype that torch promotes gate and up
        to.

    Raises:
        ValueError: the shapes differ, or there is no dimension.

    Source: Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415; Shazeer,
    https://arxiv.org/abs/2002.05202.
    """
    _check("geglu", gate, up)
    if takes_triton(gate, up):
        return _apply(gate, up, "gelu_tanh" if tanh else "gelu")
    return geglu_reference(gate, up, tanh)


def _check(name: str, gate: Tensor, up: Tensor) -> None:
    if gate.shape != up.shape or gate.dim() == 0:
        raise ValueError(
            f"{name}: gate and up must have one shape; gate is {tuple(gate.shape)}, up is {tuple(up.shape)}"
        )


def _apply(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    out = _GLU.apply(gate, up, activation)
    assert isinstance(out, Tensor)  # apply() is typed as returning anything
    return out
