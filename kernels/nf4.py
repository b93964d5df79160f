"""NF4 weights of bitsandbytes, dequantised in one launch to the bits that bitsandbytes gives.

A weight [N, K] is a row of codes, in row-major order whatever K is, two in a byte, the first in the
high half. A code is an index into 16 fp32 values; each block of 64 codes shares one scale, absmax:

    value = round_to_dtype(code_value * absmax)                    the product in fp32

Double quantisation stores absmax as one byte and decodes it, with one absmax2 for 256 of them, as

    absmax = code2[byte] * absmax2 + offset                        the product and the sum in fp32

bitsandbytes takes three launches for it (absmax decoded, offset added, weight dequantised), which
round each of the three results. This kernel rounds the same three times, hence:

* It is compiled without fused multiply-add. A fused ``code2 * absmax2 + offset`` rounds once, and a
  last bit of absmax shifts all 64 values of its block, some of them to another bf16 number.
* Nothing is folded into the code values: ``code_value * (a * b)`` is not ``(code_value * a) * b``.

So a model computes the same loss with this kernel as without, and weights kept dequantised are
those that are dequantised anew for each use.

The floor is reading 0.52 and writing 2 bytes a weight; at 4.2 TB/s an H200 has 18 instructions a
weight in that time. The kernel takes 7.4 (counted in the machine code for sm_90, bf16):

* Codes are loaded as 32-bit words of eight, 16 bytes a thread, and handed round through shared
  memory so that neighbouring threads have neighbouring words: a thread's eight values are then one
  full-width store in bf16, and a warp's stores are 512 bytes without a gap.
* The 16 values lie in shared memory (`look_up`). Lanes that read different values read different
  banks, so 32 look-ups cost one cycle.
* A scale is decoded once for its block and spread through shared memory. (Triton does so for tiles
  of at least as many blocks as threads, `_tile`'s at block size 64; in smaller ones it decodes a
  scale for every word.)

Both matmuls that use a dequantised weight take it row-major, y = x W^T and dx = dy W, so there is
no transposed output.

Source: Dettmers et al. 2023 (QLoRA) for NF4; bitsandbytes 0.50, ``functional.dequantize_4bit`` and
``dequantize_blockwise``, for the layout and for what is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .backend import (
    COMPILE_OPTIONS,
    jit,
    launch_on,
    processors,
    takes_triton,
    tl,
    triton,
    warps_for,
)

_TILE = 8192
"""Weights of one program, at 64 a thread: 4 warps with two full-width loads each. Six programs of
80 registers a thread share a multiprocessor, which then has 24 KB of codes on their way; the memory
of an H200 needs 3 KB on their way (3.5 bytes of codes a cycle, some 800 cycles of latency)."""

_SMALLEST_TILE = 2048
"""One warp at 64 weights a thread. Small weights are cut this fine to occupy every processor."""

_WEIGHTS_A_THREAD = 64

_ANY_TILE = 1024
"""Weights of one program where rows do not consist of whole blocks."""

_EXACT = {**COMPILE_OPTIONS, "enable_fp_fusion": False}
"""Three roundings, as bitsandbytes; see the module."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NF4Weight:
    """A quantised ``[N, K]`` weight: the tensors of bitsandbytes, by reference.

    It sees what is written into these tensors later, but not that a parameter got others: take it
    anew (`NF4Weight.of`) after moving a model to another device.

    Raises:
        ValueError: tensors whose sizes, dtypes or devices do not fit together, or a block size that
            is no power of two.
    """

    packed: Tensor
    """uint8, ceil(N * K / 2) bytes, contiguous, of any shape."""
    absmax: Tensor
    """One for each block: fp32, or uint8 with double quantisation."""
    code: Tensor
    """fp32 ``[16]``, the NF4 values in rising order."""
    shape: tuple[int, int]
    dtype: torch.dtype = torch.bfloat16
    """What it was quantised from, and is dequantised to unless said otherwise."""
    block_size: int = 64
    absmax2: Tensor | None = None
    """fp32, one for each `block_size2` bytes of `absmax`; None without double quantisation, like
    all that follows."""
    code2: Tensor | None = None
    """fp32 ``[256]``."""
    offset: Tensor | None = None
    """fp32 scalar. It stays on the device: reading it would stop the host."""
    block_size2: int = 256

    def __post_init__(self) -> None:
        total = math.prod(self.shape)
        blocks = -(-total // max(1, self.block_size))
        if len(self.shape) != 2:
            raise ValueError(f"NF4Weight: needs two dimensions, not {tuple(self.shape)}")
        if self.block_size < 8 or self.block_size & (self.block_size - 1):
            raise ValueError(f"NF4Weight: the block size must be a power of two from 8, not {self.block_size}")
        expected: list[tuple[str, Tensor | None, torch.dtype, int]] = [
            ("packed", self.packed, torch.uint8, -(-total // 2)),
            ("absmax", self.absmax, torch.uint8 if self.nested else torch.float32, blocks),
            ("code", self.code, torch.float32, 16),
        ]
        if self.nested:
            expected += [
                ("absmax2", self.absmax2, torch.float32, -(-blocks // max(1, self.block_size2))),
                ("code2", self.code2, torch.float32, 256),
                ("offset", self.offset, torch.float32, 1),
            ]
        for name, tensor, dtype, count in expected:
            if tensor is None:
                raise ValueError(f"NF4Weight: double quantisation needs {name}")
            if tensor.dtype != dtype or tensor.numel() != count or not tensor.is_contiguous():
                raise ValueError(
                    f"NF4Weight: {name} must be {count} adjacent values of {dtype}, "
                    f"not {tuple(tensor.shape)} of {tensor.dtype}"
                )
            if tensor.device != self.device:
                raise ValueError(f"NF4Weight: {name} is on {tensor.device}, the codes are on {self.device}")

    @property
    def nested(self) -> bool:
        """Whether the scales are quantised too (double quantisation)."""
        return any(t is not None for t in (self.absmax2, self.code2, self.offset))

    @property
    def device(self) -> torch.device:
        return self.packed.device

    @staticmethod
    def of(parameter: Tensor) -> NF4Weight:
        """The weight of a quantised ``bitsandbytes.nn.Params4bit``, by reference, whatever its
        storage dtype. Reads nothing from the device.

        Raises:
            TypeError: `parameter` is no ``Params4bit``.
            ValueError: it is not quantised yet (bitsandbytes does it when a parameter moves to its
                device), is FP4, has been repacked for bitsandbytes' own CPU kernel, or does not
                have two dimensions.
        """
        if not hasattr(parameter, "quant_state"):
            raise TypeError(f"NF4Weight.of: takes a bitsandbytes.nn.Params4bit, not {type(parameter).__name__}")
        state = parameter.quant_state  # pyright: ignore[reportAttributeAccessIssue]
        if state is None:
            raise ValueError("NF4Weight.of: not quantised yet: move the parameter to its device")
        if state.quant_type != "nf4":
            raise ValueError(f"NF4Weight.of: the codes are {state.quant_type}, not nf4")
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError("NF4Weight.of: repacked by bitsandbytes for its CPU kernel")
        packed = parameter.detach().as_subclass(Tensor)
        nested = {}
        if state.state2 is not None:
            nested = {
                "absmax2": state.state2.absmax,
                "code2": state.state2.code,
                "offset": state.offset,
                "block_size2": state.state2.blocksize,
            }
        return NF4Weight(
            packed=packed.reshape(-1).view(torch.uint8),
            absmax=state.absmax,
            code=state.code,
            shape=tuple(state.shape),
            dtype=state.dtype,
            block_size=state.blocksize,
            **nested,
        )


def dequantize_nf4_reference(weight: NF4Weight, dtype: torch.dtype | None = None) -> Tensor:
    """``[N, K]`` in plain torch, the same bits; see `dequantize_nf4`. In float64 it is the fp32
    product."""
    total, absmax = math.prod(weight.shape), weight.absmax
    if weight.absmax2 is not None and weight.code2 is not None and weight.offset is not None:
        scales = weight.absmax2.repeat_interleave(weight.block_size2)[: absmax.numel()]
        absmax = weight.code2[absmax.flatten().int()] * scales + weight.offset
    packed = weight.packed.flatten()
    codes = torch.stack((packed >> 4, packed & 15), dim=1).flatten()[:total]
    values = weight.code[codes.int()]
    if total % weight.block_size == 0:
        values = values.view(-1, weight.block_size) * absmax.view(-1, 1)
    else:
        values = values * absmax.flatten().repeat_interleave(weight.block_size)[:total]
    return values.view(weight.shape).to(weight.dtype if dtype is None else dtype)


@jit()
def look_up(codes, code_ptr):
    """The fp32 values of int32 `codes`, of any shape.

    Counted in sm_90 machine code for a bf16 tile of 8192 weights, all that a program does, a
    weight: 7.4 instructions this way, one of them the look-up. Selecting among constants by the
    four bits takes 17.8, of which 13.4 are bound to the half-rate integer pipe: 1.5 times as long
    as memory takes. Loading ``code_ptr + codes`` takes 9.7, and Triton gives such loads a layout of
    their own, with two more passes through shared memory. A table of 256 pairs halves the look-ups,
    but lanes then collide in the banks, three to four in one.
    """
    table = tl.load(code_ptr + tl.arange(0, 16))
    return tl.reshape(tl.gather(table, tl.reshape(codes, [codes.numel]), 0), codes.shape)


@jit()
def unpack(words):
    """The codes of 32-bit words in their order, one dimension more, of eight."""
    shift = ((tl.arange(0, 8) ^ 1) * 4).to(tl.uint32)  # the high half of a byte comes first
    words = tl.expand_dims(words.to(tl.uint32, bitcast=True), -1)
    return ((words >> shift) & 15).to(tl.int32)


@jit()
def load_absmax(
    absmax_ptr,
    absmax2_ptr,
    code2_ptr,
    offset_ptr,
    first,  # int64 scalar
    blocks,  # int32, added to it
    mask,
    NESTED: tl.constexpr,
    BLOCK2: tl.constexpr,
):
    """fp32 absmax of the blocks ``first + blocks``; the first three pointers are those of an
    `NF4Weight`. Tensors of 64-bit indices would cost more than the decoding itself."""
    absmax = tl.load(absmax_ptr + first + blocks, mask=mask, other=0)
    if NESTED:
        blocks2 = ((first % BLOCK2).to(tl.int32) + blocks) // BLOCK2
        absmax2 = tl.load(absmax2_ptr + first // BLOCK2 + blocks2, mask=mask, other=0.0)
        absmax = tl.load(code2_ptr + absmax.to(tl.int32)) * absmax2 + tl.load(offset_ptr)
    return absmax


@jit()
def load_any(
    packed_ptr,  # uint8
    absmax_ptr,
    absmax2_ptr,
    code2_ptr,
    offset_ptr,
    code_ptr,
    first,  # int64 scalar
    positions,  # int32, added to it
    mask,
    NESTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK2: tl.constexpr,
):
    """fp32 weights at the flat positions ``first + positions``, whatever lies beside them: a byte
    and a scale are loaded for every weight."""
    half = (first % 2).to(tl.int32) + positions
    byte = tl.load(packed_ptr + first // 2 + half // 2, mask=mask, other=0).to(tl.int32)
    codes = (byte >> (4 - half % 2 * 4)) & 15
    blocks = ((first % BLOCK).to(tl.int32) + positions) // BLOCK
    absmax = load_absmax(absmax_ptr, absmax2_ptr, code2_ptr, offset_ptr, first // BLOCK, blocks, mask, NESTED, BLOCK2)
    return tl.load(code_ptr + codes) * absmax


@jit()
def _dequantize_nf4_kernel(
    packed_ptr,  # 32-bit words of eight codes
    absmax_ptr,
    absmax2_ptr,
    code2_ptr,
    offset_ptr,
    code_ptr,
    out_ptr,  # [n_rows, n_cols], rows out_stride apart
    out_stride,
    n_rows,
    n_cols,  # a multiple of COLS
    NESTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK2: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,  # a multiple of BLOCK
    EVEN: tl.constexpr,  # n_rows is a multiple of ROWS
):
    WORDS: tl.constexpr = BLOCK // 8
    SPAN: tl.constexpr = COLS // BLOCK
    tiles = n_cols // COLS
    row = (tl.program_id(0) // tiles).to(tl.int64) * ROWS
    col = (tl.program_id(0) % tiles) * COLS
    first = row * (n_cols // BLOCK) + col // BLOCK

    # One dimension for the blocks of the tile, row by row, and one for what is in a block.
    block = tl.arange(0, ROWS * SPAN)
    blocks = block // SPAN * (n_cols // BLOCK) + block % SPAN
    starts = block // SPAN * out_stride + block % SPAN * BLOCK
    mask = EVEN | (row + block // SPAN < n_rows)
    absmax = load_absmax(absmax_ptr, absmax2_ptr, code2_ptr, offset_ptr, first, blocks, mask, NESTED, BLOCK2)
    words = blocks[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
    words = tl.load(packed_ptr + first * WORDS + words, mask=mask[:, None], other=0)
    values = look_up(tl.reshape(unpack(words), [ROWS * SPAN, BLOCK]), code_ptr)
    out = values * absmax[:, None]
    out_ptrs = out_ptr + row * out_stride + col + starts[:, None] + tl.arange(0, BLOCK)[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask[:, None])


@jit()
def _dequantize_nf4_any_kernel(
    packed_ptr,  # bytes
    absmax_ptr,
    absmax2_ptr,
    code2_ptr,
    offset_ptr,
    code_ptr,
    out_ptr,  # [rows, n_cols], rows out_stride apart
    out_stride,
    n_cols,
    NESTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK2: tl.constexpr,
    COLS: tl.constexpr,
):
    tiles = tl.cdiv(n_cols, COLS)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    cols = (tl.program_id(0) % tiles) * COLS + tl.arange(0, COLS)
    mask = cols < n_cols
    out = load_any(
        packed_ptr,
        absmax_ptr,
        absmax2_ptr,
        code2_ptr,
        offset_ptr,
        code_ptr,
        row * n_cols,
        cols,
        mask,
        NESTED,
        BLOCK,
        BLOCK2,
    )
    tl.store(out_ptr + row * out_stride + cols, out.to(out_ptr.dtype.element_ty), mask=mask)


def _tile(weight: NF4Weight) -> tuple[int, int, int]:
    """Rows and columns of a program's tile, and its warps.

    The columns divide K, so that only rows need a mask: 4096 of K = 4096, 2048 of 14336, 128 of
    896, where a row of the tile is still 256 bytes of bf16. The rows fill the tile up. Weights too
    small to give every processor four programs get smaller ones.
    """
    n_rows, n_cols = weight.shape
    tile = _TILE
    programs = 4 * processors(weight.device)
    while tile > _SMALLEST_TILE and n_rows * n_cols < programs * tile:
        tile //= 2
    tile = max(tile, weight.block_size)
    cols = math.gcd(n_cols, tile)
    rows = min(tile // cols, triton.next_power_of_2(n_rows))
    return rows, cols, min(4, max(1, rows * cols // (32 * _WEIGHTS_A_THREAD)))


def operands(weight: NF4Weight) -> tuple[Tensor, ...]:
    """What the kernels take of a weight, in their order; a pointer that is not read is absmax's."""
    nested = [weight.absmax if t is None else t for t in (weight.absmax2, weight.code2, weight.offset)]
    return weight.packed.view(-1), weight.absmax, *nested, weight.code


def words_of(weight: NF4Weight) -> Tensor | None:
    """The codes as 32-bit words, if each row consists of whole words and of whole blocks."""
    packed = weight.packed.view(-1)
    if weight.shape[1] % weight.block_size or packed.data_ptr() % 4:
        return None
    return packed.view(torch.int32)


def dequantize_nf4(weight: NF4Weight, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A quantised weight as a plain ``[N, K]`` matrix, bit for bit what bitsandbytes makes of it.

    Several weights can be dequantised into one matrix, and a matrix can carry more than weights:
    give each call its window. Rows a multiple of 16 values apart are stored 16 bytes at a time,
    others value by value.

    Args:
        weight: on any device, of any shape; K need not be a multiple of the block size.
        out: ``[N, K]`` on the device of `weight`, written and returned. Columns adjacent, rows any
            distance apart. Not tracked by autograd.
        dtype: of the result where `out` is not given: fp32, bf16, fp16 (others take the reference);
            None is what the weight was quantised from.

    Returns:
        `out`, or a new contiguous tensor.

    Raises:
        ValueError: `out` has another shape, device or dtype than asked for, or its columns are not
            adjacent.
    """
    if out is None:
        out = torch.empty(weight.shape, dtype=dtype or weight.dtype, device=weight.device)
    n_rows, n_cols = weight.shape
    if out.shape != weight.shape or out.device != weight.device or dtype not in (None, out.dtype):
        raise ValueError(
            f"dequantize_nf4: out is {tuple(out.shape)} {out.dtype} on {out.device}; "
            f"needs {weight.shape} {dtype or 'of any dtype'} on {weight.device}"
        )
    if n_cols > 1 and out.stride(1) != 1:
        raise ValueError(f"dequantize_nf4: out's columns are {out.stride(1)} apart, not adjacent")
    if not takes_triton(out):
        return out.copy_(dequantize_nf4_reference(weight, out.dtype))

    words, (packed, *rest) = words_of(weight), operands(weight)
    with launch_on(out):
        if words is not None:
            rows, cols, warps = _tile(weight)
            _dequantize_nf4_kernel[(triton.cdiv(n_rows, rows) * (n_cols // cols),)](
                words,
                *rest,
                out,
                out.stride(0),
                n_rows,
                n_cols,
                NESTED=weight.nested,
                BLOCK=weight.block_size,
                BLOCK2=weight.block_size2,
                ROWS=rows,
                COLS=cols,
                EVEN=n_rows % rows == 0,
                num_warps=warps,
                **_EXACT,
            )
        else:
            cols = min(_ANY_TILE, triton.next_power_of_2(n_cols))
            _dequantize_nf4_any_kernel[(n_rows * triton.cdiv(n_cols, cols),)](
                packed,
                *rest,
                out,
                out.stride(0),
                n_cols,
                NESTED=weight.nested,
                BLOCK=weight.block_size,
                BLOCK2=weight.block_size2,
                COLS=cols,
                num_warps=warps_for(cols),
                **_EXACT,
            )
    return out
