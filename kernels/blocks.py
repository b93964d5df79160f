"""What kernels that multiply blocks of rows by an adapter share (`glu_adapters.py`, `carry.py`)."""

from __future__ import annotations

import torch

from .backend import INTERPRETED, jit, tl, triton

PINS = not INTERPRETED and torch.version.hip is None
"""The pin is an instruction of NVIDIA's."""


@jit()
def load_block(base_ptr, rows, stride, cols, mask):
    """A block of a matrix whose rows lie `stride` apart; zeros where it is masked."""
    return tl.load(base_ptr + rows[:, None] * stride + cols[None, :], mask=mask, other=0.0)


@jit()
def pin(x, PIN: tl.constexpr):
    """`x`, from an instruction that the compiler takes for more than it is: it is made once, and in
    the layout of what it is made of."""
    if not PIN:
        return x
    pack: tl.constexpr = 32 // x.dtype.primitive_bitwidth
    return tl.inline_asm_elementwise(
        "mov.b32 $0, $1;",
        "=r,r",
        [x],
        dtype=x.dtype,
        is_pure=False,
        pack=pack,  # pyright: ignore[reportArgumentType]
    )


@jit()
def multiply_block(a, b, total, WIDE: tl.constexpr):
    """``total + a @ b``; WIDE for Triton's interpreter, which would multiply the bits of bf16."""
    if WIDE:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


def lanes_of(rank: int) -> int:
    """A rank as the tensor cores take it."""
    return max(16, triton.next_power_of_2(rank))
