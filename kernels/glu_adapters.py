"""Gated linear units that do the adapters' skinny products on the way: the tokens' matrices are read once.

Round the GLU of an MLP with LoRA lie four products of a ``[tokens, intermediate]`` matrix with a few columns
(the notation is that of ``qlora.py``):

    forward     t  = product A_down^T        into the columns that the product's buffer carries
    backward    dA_down = u^T product        dB_gate = dgate^T t_gate        dB_up = dup^T t_up

Each as a matmul of its own reads a matrix that the GLU has just written, at the speed of memory: with 16,384
tokens and 14,336 columns, four passes of 470 MB beside the eight that the GLU itself needs both ways. Here the
GLU's kernels multiply the block that they hold in registers anyway. The product needs not be kept for the
backward either: it is made again from gate and up, and nobody writes it.

Rounding is as if the matmuls ran apart: activation and product are those of ``glu.py``, by the same function; what
is multiplied is what is stored, rounded to the dtype; sums are fp32. Every operand is a view: rows may lie any
distance apart. What may share memory there may share it here: a block is in registers before its results are stored.

Forward: a program owns a block of rows and walks along all columns, with t in its accumulators. Backward: a
program owns a block of columns and walks down a share of the rows, with the three gradients in its accumulators;
the shares' sums are added afterwards, in a fixed order, so that the same operands give the same bits.

The blocks of a walk are staged through shared memory by the compiler's pipelining, two of them under way while one
is in hand. (Loaded ahead into registers, as one could write it, they would not be: the assembler sees no use for
such a load before the next turn of the loop, and puts it off until the arithmetic is done.) Left to itself the
compiler would also read each staged block twice, and take its activations twice, in the layout that stores want
and in the one that tensor cores want: `blocks.pin` is what it cannot copy. So only rounded results go to the tensor
cores' layout. The long side of each product is M, since Hopper's instruction takes 64 rows and as few as 8 columns.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .backend import (
    COMPILE_OPTIONS,
    INTERPRETED,
    jit,
    launch_on,
    processors,
    takes_triton,
    tl,
    triton,
)
from .blocks import PINS, lanes_of, load_block, multiply_block, pin
from .glu import (
    Activation,
    _activate,
    geglu_reference,
    glu_backward,
    glu_forward,
    swiglu_reference,
)
from .matmul import matmul_fp32

MAX_RANK = 32
"""The widest adapter that the backward takes; wider ones get a GLU and matmuls. The accumulators of three
gradients fill a processor's registers: at rank 64 an H200 takes 1,238 us where GLU and matmuls take 894."""


def glu_forward_carry_reference(
    gate: Tensor, up: Tensor, rows: Tensor, activation: Activation
) -> tuple[Tensor, Tensor]:
    """The product and what it carries, in plain torch; see `glu_forward_carry`."""
    product = _unit(gate, up, activation)
    return product, torch.mm(product, rows.t())


def glu_backward_gradients_reference(
    dproduct: Tensor,
    gate: Tensor,
    up: Tensor,
    u: Tensor,
    t: tuple[Tensor, Tensor],
    activation: Activation,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dgate, dup, da, db_gate and db_up in plain torch; see `glu_backward_gradients`."""
    with torch.enable_grad():
        gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
        product = _unit(gate, up, activation)
        dgate, dup = torch.autograd.grad(product, (gate, up), dproduct)
    return dgate, dup, *_gradients(product.detach(), dgate, dup, u, t)


def _unit(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    if activation == "silu":
        return swiglu_reference(gate, up)
    return geglu_reference(gate, up, tanh=activation == "gelu_tanh")


def _gradients(
    product: Tensor, dgate: Tensor, dup: Tensor, u: Tensor, t: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    t_gate, t_up = t
    return matmul_fp32(u.t(), product), matmul_fp32(dgate.t(), t_gate), matmul_fp32(dup.t(), t_up)


@jit(do_not_specialize=["n_rows"])
def _glu_forward_carry_kernel(
    gate_ptr,  # [n_rows, n_cols], rows gate_stride apart
    up_ptr,  # [n_rows, n_cols], rows up_stride apart
    out_ptr,  # [n_rows, n_cols], rows out_stride apart; may be gate_ptr or up_ptr
    adapter_ptr,  # [extra, n_cols], rows adapter_stride apart
    carried_ptr,  # [n_rows, extra], rows carried_stride apart
    gate_stride,
    up_stride,
    out_stride,
    adapter_stride,
    carried_stride,
    n_rows,
    n_cols,
    extra,
    ACTIVATION: tl.constexpr,
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
        gate = load_block(gate_ptr, rows, gate_stride, cols, mask)
        up = load_block(up_ptr, rows, up_stride, cols, mask)
        adapter = load_block(adapter_ptr, lanes, adapter_stride, cols, wanted & there)
        value, _ = _activate(gate.to(tl.float32), ACTIVATION)
        out = value.to(gate.dtype).to(tl.float32) * up.to(tl.float32)
        out = pin(out.to(out_ptr.dtype.element_ty), PIN)
        out_ptrs = out_ptr + rows[:, None] * out_stride + cols[None, :]
        tl.store(out_ptrs, out, mask=mask)
        carried = multiply_block(out, tl.trans(adapter), carried, WIDE)

    carried_ptrs = carried_ptr + rows[:, None] * carried_stride + lanes[None, :]
    mask = inside & (lanes < extra)[None, :]
    tl.store(carried_ptrs, carried.to(carried_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["n_rows", "share"])
def _glu_backward_gradients_kernel(
    dout_ptr,  # [n_rows, n_cols], rows dout_stride apart
    gate_ptr,  # [n_rows, n_cols], rows gate_stride apart
    up_ptr,  # [n_rows, n_cols], rows up_stride apart
    dgate_ptr,  # [n_rows, n_cols], rows dgate_stride apart; may be an operand's memory
    dup_ptr,  # [n_rows, n_cols], rows dup_stride apart; may be an operand's memory
    u_ptr,  # [n_rows, u_rank], rows u_stride apart
    t_gate_ptr,  # [n_rows, gate_rank], rows t_gate_stride apart
    t_up_ptr,  # [n_rows, up_rank], rows t_up_stride apart
    sums_ptr,  # [shares, (u_rank + gate_rank + up_rank) * n_cols], fp32
    dout_stride,
    gate_stride,
    up_stride,
    dgate_stride,
    dup_stride,
    u_stride,
    t_gate_stride,
    t_up_stride,
    n_rows,
    n_cols,
    u_rank,
    gate_rank,
    up_rank,
    share,
    ACTIVATION: tl.constexpr,
    PIN: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    # Neighbours share rows: what is read at one time lies close together in memory.
    blocks = tl.cdiv(n_cols, BLOCK_COLS)
    index = tl.program_id(0) // blocks
    cols = (tl.program_id(0) % blocks) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    inside = (cols < n_cols)[None, :]
    first = index * share
    last = tl.minimum(first + share, n_rows)
    u_lanes, t_lanes = tl.arange(0, BLOCK_U), tl.arange(0, BLOCK_T)

    da = tl.zeros([BLOCK_COLS, BLOCK_U], dtype=tl.float32)
    db_gate = tl.zeros([BLOCK_COLS, BLOCK_T], dtype=tl.float32)
    db_up = tl.zeros([BLOCK_COLS, BLOCK_T], dtype=tl.float32)
    for start in range(first, last, BLOCK_ROWS):
        rows = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_ROWS)
        there = (rows < last)[:, None]
        mask = there & inside
        dout = load_block(dout_ptr, rows, dout_stride, cols, mask)
        gate = load_block(gate_ptr, rows, gate_stride, cols, mask)
        up = load_block(up_ptr, rows, up_stride, cols, mask)
        u = load_block(u_ptr, rows, u_stride, u_lanes, there & (u_lanes < u_rank)[None, :])
        wanted = there & (t_lanes < gate_rank)[None, :]
        t_gate = load_block(t_gate_ptr, rows, t_gate_stride, t_lanes, wanted)
        wanted = there & (t_lanes < up_rank)[None, :]
        t_up = load_block(t_up_ptr, rows, t_up_stride, t_lanes, wanted)

        wide_dout, wide_up = dout.to(tl.float32), up.to(tl.float32)
        value, slope = _activate(gate.to(tl.float32), ACTIVATION)
        out = pin((value.to(gate.dtype).to(tl.float32) * wide_up).to(gate.dtype), PIN)
        dgate = pin((wide_dout * wide_up * slope).to(dgate_ptr.dtype.element_ty), PIN)
        dup = pin((wide_dout * value).to(dup_ptr.dtype.element_ty), PIN)
        dgate_ptrs = dgate_ptr + rows[:, None] * dgate_stride + cols[None, :]
        dup_ptrs = dup_ptr + rows[:, None] * dup_stride + cols[None, :]
        tl.store(dgate_ptrs, dgate, mask=mask)
        tl.store(dup_ptrs, dup, mask=mask)
        da = multiply_block(tl.trans(out), u, da, WIDE)
        db_gate = multiply_block(tl.trans(dgate), t_gate, db_gate, WIDE)
        db_up = multiply_block(tl.trans(dup), t_up, db_up, WIDE)

    inside = (cols < n_cols)[:, None]
    cols = cols.to(tl.int64)[:, None]
    sums_ptr += index.to(tl.int64) * (u_rank + gate_rank + up_rank) * n_cols
    mask = inside & (u_lanes < u_rank)[None, :]
    tl.store(sums_ptr + u_lanes.to(tl.int64)[None, :] * n_cols + cols, da, mask=mask)
    sums_ptr += tl.cast(u_rank, tl.int64) * n_cols
    mask = inside & (t_lanes < gate_rank)[None, :]
    tl.store(sums_ptr + cols * gate_rank + t_lanes[None, :], db_gate, mask=mask)
    sums_ptr += tl.cast(gate_rank, tl.int64) * n_cols
    mask = inside & (t_lanes < up_rank)[None, :]
    tl.store(sums_ptr + cols * up_rank + t_lanes[None, :], db_up, mask=mask)


class _Tile(NamedTuple):
    rows: int
    cols: int
    warps: int
    stages: int = 3
    """Blocks in shared memory, one of them in hand."""
    resident: int = 1
    """Programs that a processor has room for at a time."""


def _forward_tile(n_rows: int, extra: int, dtype: torch.dtype, device: torch.device) -> _Tile:
    """What a program of the forward holds at a time.

    Blocks of 16 rows are the fastest for narrow adapters on an H200 (375 us where 64 rows take 397, from
    ``tests/gpu/glu_adapters_gpu.py --sweep``). The rows of wider ones would be read again for too few tokens:
    64, or, as all programs run from start to end, as few as give each processor one or two.
    """
    if dtype.itemsize == 4:
        return _Tile(16, 64, 4)  # these products are not the tensor cores'
    if extra <= 16:
        return _Tile(16, 128, 8)
    rows = 64
    while rows > 16 and 2 * triton.cdiv(n_rows, rows) < 3 * processors(device):
        rows //= 2
    return _Tile(rows, 4096 // rows, 8)


def _backward_tile(rank: int, dtype: torch.dtype) -> _Tile:
    """What a program of the backward holds at a time, by the widest of the three ranks.

    Registers decide: the sums take three times columns times rank, beside 8 or 16 values of each operand. Compiled
    for sm_90 the ranks up to 16 take 138 registers a thread, up to 32 110: room for 8 to 16 warps on a processor,
    with 24 to 72 KB of loads under way.
    """
    if dtype.itemsize == 4:
        return _Tile(16, 64, 4 if rank <= 16 else 8)
    return _Tile(32, 64, 4, resident=3) if rank <= 16 else _Tile(32, 64, 8, resident=2)


@lru_cache
def _shares(n_rows: int, n_cols: int, ranks: int, tile: _Tile, device: torch.device) -> int:
    """Into how many shares the backward cuts the rows.

    More of them fill the processors more evenly; each costs `ranks` columns of sums, written and read in fp32. Both
    are counted in times of the five passes over the tokens' matrices.
    """
    blocks, slots = triton.cdiv(n_cols, tile.cols), tile.resident * processors(device)

    def cost(shares: int) -> float:
        turns = triton.cdiv(blocks * shares, slots)
        return turns * slots / (blocks * shares) + 0.8 * ranks * shares / n_rows

    return min(range(1, min(32, triton.cdiv(n_rows, tile.rows)) + 1), key=cost)


def glu_forward_carry(
    gate: Tensor,
    up: Tensor,
    out: Tensor,
    rows: Tensor,
    carried: Tensor,
    activation: Activation,
) -> None:
    """Write ``product = activation(gate) * up`` and ``product @ rows.T``; raw: no checks, no autograd.

    Args:
        gate, up: ``[tokens, intermediate]`` with adjacent columns and rows any distance apart, as all
            operands have, fp32, bf16 or fp16, and all of one dtype and on one device (elsewhere, and
            for float64, plain torch).
        out: the same shape, written; may be `gate` or `up`.
        rows: ``[extra, intermediate]``: what the down projection's adapter multiplies its input by, as
            in ``ProjectionGroup``. Fused where `extra` is no more than the rows of a block (64 for
            16,384 tokens on an H200): the rows, read again for every block, are then at most half
            as many bytes as gate and up. Wider ones get `glu_forward` and a matmul.
        carried: ``[tokens, extra]``, written: sums in fp32 over the product as `out` has it.
        activation: see `Activation`.
    """
    if not takes_triton(gate, up):
        product, extra = glu_forward_carry_reference(gate, up, rows, activation)
        out.copy_(product)
        carried.copy_(extra)
        return
    n_rows, n_cols = gate.shape
    extra = rows.shape[0]
    tile = _forward_tile(n_rows, extra, gate.dtype, gate.device)
    if not 0 < extra <= tile.rows:
        glu_forward(gate, up, out, activation)
        torch.mm(out, rows.t(), out=carried)
        return
    with launch_on(gate):
        _glu_forward_carry_kernel[(triton.cdiv(n_rows, tile.rows),)](
            gate,
            up,
            out,
            rows,
            carried,
            gate.stride(0),
            up.stride(0),
            out.stride(0),
            rows.stride(0),
            carried.stride(0),
            n_rows,
            n_cols,
            extra,
            ACTIVATION=activation,
            PIN=PINS,
            WIDE=INTERPRETED,
            BLOCK_ROWS=tile.rows,
            BLOCK_COLS=tile.cols,
            BLOCK_EXTRA=lanes_of(extra),
            num_warps=tile.warps,
            num_stages=tile.stages,
            **COMPILE_OPTIONS,
        )


def glu_backward_gradients(
    dproduct: Tensor,
    gate: Tensor,
    up: Tensor,
    dgate: Tensor,
    dup: Tensor,
    u: Tensor,
    t: tuple[Tensor, Tensor],
    activation: Activation,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write the gradients of gate and up, and return those of the adapters round the GLU; raw: no
    checks, no autograd.

    Args:
        dproduct, gate, up: ``[tokens, intermediate]`` with adjacent columns and rows any distance
            apart, as all operands have, fp32, bf16 or fp16, and all of one dtype and on one device
            (elsewhere, and for float64, plain torch).
        dgate, dup: the same shape, written. Each may be the same memory as an operand, element for
            element.
        u: ``[tokens, rank of down]``, what the gradient of down's output carries.
        t: what the input of gate and up carries: ``[tokens, rank of gate]`` and ``[tokens, rank of
            up]``. Ranks may differ, and be 0; fused up to `MAX_RANK`.
        activation: see `Activation`.

    Returns:
        ``da = u.T @ product``, ``[rank of down, intermediate]``; ``db_gate = dgate.T @ t_gate`` and
        ``db_up = dup.T @ t_up``, ``[intermediate, rank]``: fp32, not scaled, views of one new tensor,
        each contiguous. The product is rounded as `glu_forward` rounds it, and never stored.
    """
    t_gate, t_up = t
    if not takes_triton(gate, up, dproduct):
        wanted = glu_backward_gradients_reference(dproduct, gate, up, u, t, activation)
        dgate.copy_(wanted[0])
        dup.copy_(wanted[1])
        return wanted[2:]
    n_rows, n_cols = gate.shape
    ranks = [x.shape[1] for x in (u, t_gate, t_up)]
    if max(ranks) == 0:
        glu_backward(dproduct, gate, up, dgate, dup, activation)
        nothing = torch.empty(0, dtype=torch.float32, device=gate.device)
        return nothing.view(0, n_cols), nothing.view(n_cols, 0), nothing.view(n_cols, 0)
    if max(ranks) > MAX_RANK:
        product = torch.empty((n_rows, n_cols), dtype=gate.dtype, device=gate.device)
        glu_backward(dproduct, gate, up, dgate, dup, activation, out=product)
        return _gradients(product, dgate, dup, u, t)
    tile = _backward_tile(lanes_of(max(ranks)), gate.dtype)
    shares = _shares(n_rows, n_cols, sum(ranks), tile, gate.device)
    share = triton.cdiv(triton.cdiv(n_rows, tile.rows), shares) * tile.rows
    shares = triton.cdiv(n_rows, share)
    sums = torch.empty((shares, sum(ranks) * n_cols), dtype=torch.float32, device=gate.device)
    with launch_on(gate):
        _glu_backward_gradients_kernel[(triton.cdiv(n_cols, tile.cols) * shares,)](
            dproduct,
            gate,
            up,
            dgate,
            dup,
            u,
            t_gate,
            t_up,
            sums,
            dproduct.stride(0),
            gate.stride(0),
            up.stride(0),
            dgate.stride(0),
            dup.stride(0),
            u.stride(0),
            t_gate.stride(0),
            t_up.stride(0),
            n_rows,
            n_cols,
            *ranks,
            share,
            ACTIVATION=activation,
            PIN=PINS,
            WIDE=INTERPRETED,
            BLOCK_ROWS=tile.rows,
            BLOCK_COLS=tile.cols,
            BLOCK_U=lanes_of(ranks[0]),
            BLOCK_T=lanes_of(max(ranks[1:])),
            num_warps=tile.warps,
            num_stages=tile.stages,
            **COMPILE_OPTIONS,
        )
    total = sums[0] if shares == 1 else sums.sum(0)
    da, db_gate, db_up = total.split([rank * n_cols for rank in ranks])
    return (
        da.view(ranks[0], n_cols),
        db_gate.view(n_cols, ranks[1]),
        db_up.view(n_cols, ranks[2]),
    )
