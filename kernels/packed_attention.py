"""Causal attention inside each of many documents that are packed in one row, both ways.

A query sees the keys of its own document up to itself and, with a window, no further back than that:
keys from ``max(starts[query], query - window + 1)`` to ``query``. Two int32 tensors on the device,
`starts` and `ends`, say for each token where its document begins and ends, and nothing else knows
about documents. Tiles lie over the packed tokens: short documents share one, long ones pay what they
pay in ordinary flash attention, and the grid depends on shapes alone. There are no tables of tiles,
no work for the host, nothing to plan anew when the lengths change, and a CUDA graph can replay it.

* A tile's rows are tokens times heads: heads of one group share their keys and values, and so a tile.
  It then spans few tokens, so that little is computed only to be masked, which in tiles over short
  documents is most of the work; yet the products of matrices stay large.
* A tile of queries walks over the keys from the first that any of its queries sees. The blocks that
  all of them see, in the middle, need no mask; the others, left and right of them, share one loop.
* Softmax in one pass over the keys, in base 2 and fp32; what is saved is out and one number a row,
  the logarithm of the sum. Weights are rounded to the dtype of v for their product, as in eager.
* The backward computes the weights anew, in two kernels: one walks over the keys of a tile of
  queries, for dq; the other over the queries of a tile of keys and over the heads of the group, for
  dk and dv. Two of seven products could be saved by adding up dq of all key tiles in memory, but
  that takes atomics, or fp32 buffers. So: no atomics, the same input gives the same bits.
* The kernel of dq has out and dout at hand, so it also sums up their product, which both need.
* The programs with the most work start first: late queries, early keys. All heads of a tile are
  neighbours in the grid, so that they find its keys in the L2 cache.

Operands and results are addressed by token and head strides: q, k and v may be slices of one fused
projection, out and the gradients slices of wider buffers. Nothing is copied or expanded.

A soft-cap makes each logit ``softcap * tanh(logit / softcap)`` (Gemma 2).

Source: Dao, FlashAttention-2, https://arxiv.org/abs/2307.08691.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import COMPILE_OPTIONS, launch_on, takes_triton, triton
from .packed_attention_kernels import (
    _attention_forward_kernel,
    _attention_key_gradient_kernel,
    _attention_query_gradient_kernel,
)

MAX_HEAD_SIZE = 256
"""The widest head for which there are tiles; wider ones take the reference."""

_LOG2_E = math.log2(math.e)

Kernel = Literal["forward", "query gradient", "key gradient"]


class Tile(NamedTuple):
    """How a kernel is launched: rows of the query tile (tokens times heads), keys of the key tile,
    warps, stages of the pipeline of loads, and how many heads at most share a tile."""

    rows: int
    keys: int
    warps: int
    stages: int
    heads: int = 8


@lru_cache
def _capability(device: torch.device) -> int:
    """90 for compute capability 9.0; a CPU, which has Triton's interpreter, counts as that."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


_HOPPER: dict[tuple[Kernel, int], Tile] = {  # by kernel and padded size of a head
    ("forward", 64): Tile(128, 64, 8, 3),
    ("forward", 128): Tile(128, 32, 8, 3),
    ("forward", 256): Tile(128, 32, 8, 2),
    ("query gradient", 64): Tile(64, 32, 4, 3),
    ("query gradient", 128): Tile(64, 32, 4, 2),
    ("query gradient", 256): Tile(128, 32, 8, 2),
    ("key gradient", 64): Tile(64, 64, 4, 2),
    ("key gradient", 128): Tile(32, 64, 4, 3),
    ("key gradient", 256): Tile(32, 64, 8, 2),
}
_AMPERE: dict[tuple[Kernel, int], Tile] = {
    ("forward", 64): Tile(128, 64, 4, 2),
    ("forward", 128): Tile(128, 64, 8, 2),
    ("forward", 256): Tile(64, 32, 8, 2),
    ("query gradient", 64): Tile(64, 64, 4, 2),
    ("query gradient", 128): Tile(128, 32, 8, 2),
    ("query gradient", 256): Tile(32, 32, 4, 2),
    ("key gradient", 64): Tile(64, 64, 4, 2),
    ("key gradient", 128): Tile(64, 64, 8, 2),
    ("key gradient", 256): Tile(32, 32, 8, 2),
}


def _tile(kernel: Kernel, q: Tensor) -> Tile:
    """The tile of `kernel` for queries like `q`, by capability, dtype and padded size of a head.

    Hopper's for heads up to 128 are the fastest that ``tests/gpu/packed_attention_gpu.py --sweep`` timed
    on an H200 with short documents and with rows of 2,048. The others rest on what the compiler
    reports (Triton 3.6, checked with 3.9): of the usual tiles these spill no or few registers and fit
    in shared memory, 227 KB on Hopper, and 99 KB on what takes the other table (Ampere, Ada, the
    smaller Blackwells).
    """
    size = max(64, triton.next_power_of_2(q.shape[2]))
    if q.dtype == torch.float32:
        # No tensor cores: small tiles, whose operands pass through registers.
        return Tile(32, 32, 8, 1) if size < 256 else Tile(16, 16, 8, 1)
    hopper = 90 <= _capability(q.device) < 120
    return (_HOPPER if hopper else _AMPERE)[kernel, size]


def document_bounds(cu_seqlens: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Where the document of each token begins and ends. Without a host sync.

    Args:
        cu_seqlens: ``[documents + 1]`` int32 or int64, ascending: the first token of each document,
            and one past the last token of the last. Documents may be empty.
        tokens: of the row. Those before the first offset and those from the last on are a document
            each time.

    Returns:
        `starts` and `ends`, ``[tokens]`` int32: the first token of the token's document, and one
        past its last.
    """
    edges = cu_seqlens.to(torch.int32).clamp(0, tokens)
    edges = F.pad(F.pad(edges, (1, 0), value=0), (0, 1), value=tokens)
    positions = torch.arange(tokens, dtype=torch.int32, device=edges.device)
    after = torch.searchsorted(edges, positions, right=True)
    return edges[after - 1], edges[after]


def packed_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention in plain torch with all logits in memory, rounded where eager attention rounds; see
    `packed_attention`, of whose tensors it needs no `ends`.

    Source: ``eager_attention_forward`` of transformers, Gemma 2's with `softcap`.
    """
    scale = 1 / math.sqrt(q.shape[2]) if scale is None else scale
    logits = _reference_logits(q, k, starts, scale, window, softcap)
    wide = torch.promote_types(q.dtype, torch.float32)
    weights = torch.softmax(logits, dim=-1, dtype=wide).to(q.dtype)
    values = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return torch.matmul(weights, values.transpose(0, 1)).transpose(0, 1)


def _reference_logits(
    q: Tensor,
    k: Tensor,
    starts: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """``[heads, tokens, tokens]``, -inf where a query does not see a key."""
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = torch.matmul(q.transpose(0, 1), keys.permute(1, 2, 0)) * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    key = torch.arange(q.shape[0], device=q.device)
    query = key[:, None]
    visible = (key >= starts[:, None]) & (key <= query)
    if window is not None:
        visible &= key > query - window
    return logits.masked_fill(~visible, -math.inf)


def _factors(scale: float, softcap: float | None) -> tuple[float, float]:
    """What the kernels multiply products of q and k by, before and after the soft-cap's tanh, so
    that exponentials are powers of two: see `_logits` there."""
    if softcap is None:
        return 0.0, scale * _LOG2_E
    return 2 * _LOG2_E * scale / softcap, softcap * _LOG2_E


def _launch_options(kernel: Kernel, q: Tensor, k: Tensor, softcap: float | None) -> dict[str, Any]:
    """Constants and options of the kernel's launch."""
    tile = _tile(kernel, q)
    group = q.shape[1] // k.shape[1]
    # The largest power of two that divides the group, of those that leave a tile 16 tokens.
    heads = min(group & -group, tile.heads, tile.rows // 16)
    return {
        "SOFTCAP": softcap is not None,
        "SIZE": q.shape[2],
        "GROUP": group,
        "HEADS": heads,
        "TOKENS": tile.rows // heads,
        "KEYS": tile.keys,
        "COLS": max(16, triton.next_power_of_2(q.shape[2])),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        **COMPILE_OPTIONS,
    }


def _takes_kernels(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return takes_triton(q, k, v) and q.shape[2] <= MAX_HEAD_SIZE


def packed_attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    out: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """`packed_attention` without autograd and into given memory; raw: no checks. Where Triton does
    not run, the same in plain torch.

    Args:
        q, k, v, starts, window, softcap: as in `packed_attention`.
        out: like q, but for the strides, and no operand's memory.
        scale: positive.

    Returns:
        ``[heads, tokens]`` fp32 (float64 for such operands where Triton does not run): the logarithm
        to the base 2 of each row's sum of exponentials, which `packed_attention_backward` needs.
    """
    tokens, heads, _ = q.shape
    if not _takes_kernels(q, k, v):
        options = {"scale": scale, "window": window, "softcap": softcap}
        out.copy_(packed_attention_reference(q, k, v, starts, **options))
        wide = torch.promote_types(q.dtype, torch.float32)
        logits = _reference_logits(q, k, starts, scale, window, softcap)
        return torch.logsumexp(logits.to(wide), dim=-1) * _LOG2_E
    lse = torch.empty((heads, tokens), dtype=torch.float32, device=q.device)
    inner, factor = _factors(scale, softcap)
    options = _launch_options("forward", q, k, softcap)
    programs = triton.cdiv(tokens, options["TOKENS"]) * (heads // options["HEADS"])
    with launch_on(q):
        _attention_forward_kernel[(programs,)](
            q,
            k,
            v,
            starts,
            out,
            lse,
            *_strides(q, k, v, out),
            tokens,
            heads,
            tokens if window is None else min(window, tokens),
            inner,
            factor,
            **options,
        )
    return lse


def packed_attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor,
    ends: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> None:
    """Write the gradients of q, k and v; raw: no checks, no autograd. Where Triton does not run, the
    same in plain torch.

    Args:
        dout: the gradient of `out`, in its shape and dtype, any strides but the last.
        q, k, v, starts, ends, window, softcap: as in `packed_attention`.
        out, lse: what `packed_attention_forward` wrote and returned.
        dq, dk, dv: like q, k and v, but for the strides, and no operand's memory.
        scale: positive.
    """
    tokens, heads, _ = q.shape
    if not _takes_kernels(q, k, v):
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (q, k, v)]
            again = packed_attention_reference(
                leaves[0], leaves[1], leaves[2], starts, scale=scale, window=window, softcap=softcap
            )
            grads = torch.autograd.grad(again, leaves, dout)
        for given, grad in zip((dq, dk, dv), grads, strict=True):
            given.copy_(grad)
        return
    delta = torch.empty((heads, tokens), dtype=torch.float32, device=q.device)
    inner, factor = _factors(scale, softcap)
    reach = tokens if window is None else min(window, tokens)
    with launch_on(q):
        options = _launch_options("query gradient", q, k, softcap)
        programs = triton.cdiv(tokens, options["TOKENS"]) * (heads // options["HEADS"])
        _attention_query_gradient_kernel[(programs,)](
            dout,
            q,
            k,
            v,
            out,
            lse,
            starts,
            dq,
            delta,
            *_strides(dout, q, k, v, out, dq),
            tokens,
            heads,
            reach,
            scale,
            inner,
            factor,
            **options,
        )
        options = _launch_options("key gradient", q, k, softcap)
        _attention_key_gradient_kernel[(triton.cdiv(tokens, options["KEYS"]) * k.shape[1],)](
            dout,
            q,
            k,
            v,
            lse,
            delta,
            ends,
            dk,
            dv,
            *_strides(dout, q, k, v, dk, dv),
            tokens,
            heads,
            reach,
            scale,
            inner,
            factor,
            **options,
        )


def _strides(*tensors: Tensor) -> list[int]:
    """Of tokens and heads, tensor by tensor."""
    return [stride for t in tensors for stride in t.stride()[:2]]


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        starts: Tensor,
        ends: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        q, k, v = (_adjacent(t) for t in (q, k, v))
        options = {"scale": scale, "window": window, "softcap": softcap}
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = packed_attention_forward(q, k, v, starts, out, **options)
        ctx.save_for_backward(q, k, v, out, lse, starts, ends)
        ctx.options = options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse, starts, ends = ctx.saved_tensors
        dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
        packed_attention_backward(_adjacent(dout), q, k, v, out, lse, starts, ends, dq, dk, dv, **ctx.options)
        return dq, dk, dv, None, None, None, None, None


def _adjacent(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    ends: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Causal attention inside each document of a packed row.

    Args:
        q: ``[tokens, heads, size]``, any strides (a last dimension that is not contiguous costs a
            copy), fp32, bf16 or fp16 (float64 takes the reference, and so do heads wider than
            `MAX_HEAD_SIZE`).
        k, v: ``[tokens, kv_heads, size]`` in the dtype of q; `kv_heads` divides `heads`, and head h
            of q goes with head ``h // (heads // kv_heads)`` of k and v.
        starts, ends: ``[tokens]`` int32 on the same device, from `document_bounds`.
        scale: positive, of the products of q and k; None: ``size ** -0.5``.
        window: how many tokens a query sees, itself included; None: all of its document so far.
        softcap: positive; bounds the logits, smoothly.

    Returns:
        ``[tokens, heads, size]`` in the dtype of q, contiguous where Triton ran. No finite value of
        one document changes a bit of another; infinity and NaN spread to documents close by.

    Raises:
        ValueError: shapes or dtypes do not fit, or a number is not positive.

    Source: Dao, FlashAttention-2, https://arxiv.org/abs/2307.08691; the soft-cap: Gemma 2,
    https://arxiv.org/abs/2408.00118.
    """
    _check(q, k, v, starts, ends)
    scale = 1 / math.sqrt(q.shape[2]) if scale is None else scale
    for name, number in (("scale", scale), ("window", window), ("softcap", softcap)):
        if number is not None and not number > 0:
            raise ValueError(f"packed_attention: {name} must be positive, not {number}")
    if _takes_kernels(q, k, v):
        out = _PackedAttention.apply(q, k, v, starts, ends, scale, window, softcap)
        assert isinstance(out, Tensor)  # apply() is typed as returning anything
        return out
    return packed_attention_reference(q, k, v, starts, scale=scale, window=window, softcap=softcap)


def _check(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, ends: Tensor) -> None:
    shapes = f"q is {tuple(q.shape)}, k is {tuple(k.shape)}, v is {tuple(v.shape)}"
    if q.dim() != 3 or k.shape != v.shape or q.shape[::2] != k.shape[::2]:
        raise ValueError(
            f"packed_attention: q, k and v must be [tokens, heads, size], alike but for q's heads; {shapes}"
        )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1] != 0:
        raise ValueError(f"packed_attention: heads of k and v must divide those of q; {shapes}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"packed_attention: q, k and v must have one dtype, not {q.dtype}, {k.dtype}, {v.dtype}")
    for name, bounds in (("starts", starts), ("ends", ends)):
        if bounds.shape != q.shape[:1] or bounds.dtype != torch.int32:
            raise ValueError(
                f"packed_attention: {name} must be int32 of shape {tuple(q.shape[:1])}, not "
                f"{bounds.dtype} of {tuple(bounds.shape)}"
            )
