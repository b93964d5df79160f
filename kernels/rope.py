"""Rotary position embedding on queries and keys: one launch each way, in place.

Each head of a token is a list of pairs, and pair j is turned by the token's j-th angle:

* half-split (Llama and nearly all others): pair j is (x[j], x[j + R/2]);
* interleaved (GLM, Ernie 4.5, Helium):     pair j is (x[2 j], x[2 j + 1]).

(a, b) becomes (a cos - b sin, b cos + a sin), in fp32 and rounded once, where eager rounds each
product and the sum if cos and sin have the dtype of q. R may be less than the size of a head
(partial rotary: GLM, Phi-4 mini, StableLM); what lies behind the first R values is neither read nor
written.

cos and sin are what a rotary module of transformers returns, whatever its frequencies (default,
linear, dynamic, YaRN, LongRoPE, Llama 3), R wide with the second half repeating the first: for both
kinds above, so the kernel reads the first half alone. Cohere's module repeats each value twice in a
row instead: ``torch.cat([cos[..., ::2]] * 2, -1)`` gives it this layout, once for all layers. The
complex frequencies of DeepSeek V2 and Llama 4 are not supported as they come; their real and
imaginary parts, repeated, are cos and sin for the interleaved kind.

YaRN and LongRoPE scale cos and sin by an attention factor. The map is then no rotation, and its
inverse is not its backward; the transpose is, which turns the other way and scales by the same
factor: sin changes its sign, cos stays. It needs neither q nor k, so nothing is saved but cos and
sin, which all layers share.

A program takes one token with all its heads of q and of k, up to some number of values, so that
cos and sin are loaded once for them all. Interleaved pairs are loaded side by side and parted in
registers: two loads with a stride of two would ask for every sector twice.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import COMPILE_OPTIONS, jit, launch_on, takes_triton, tl, triton, warps_for

_TILE = 8192
"""Values of q in one program at most: 16 values a thread at 16 warps, as many again for k where
there are as many heads. 64 heads of 128 values fit, so nearly every model needs one program a
token."""


def rope_reference(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """Rotary embedding in plain torch; see `rope`. Where cos and sin have a wider dtype than q, the
    arithmetic has it too, and the result is rounded to q's dtype.

    Source: ``apply_rotary_pos_emb`` of transformers: Llama's and Phi-3's, and with `interleaved`
    GLM's and Ernie 4.5's.
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    size = cos.shape[-1]
    if interleaved:
        cos = cos[..., : size // 2].repeat_interleave(2, dim=-1)
        sin = sin[..., : size // 2].repeat_interleave(2, dim=-1)

    def turned(x: Tensor) -> Tensor:
        rotary, rest = x[..., :size], x[..., size:]
        rotated = (rotary * cos + _quarter_turn(rotary, interleaved) * sin).to(x.dtype)
        return torch.cat((rotated, rest), dim=-1)

    return turned(q), turned(k)


def _quarter_turn(x: Tensor, interleaved: bool) -> Tensor:
    """Each pair (a, b) of the last dimension as (-b, a)."""
    if interleaved:
        return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


@jit()
def _rotate(first, second, cos, sin):
    """Pairs ``[heads, pairs]`` of any dtype, turned in fp32."""
    first = first.to(tl.float32)
    second = second.to(tl.float32)
    return first * cos - second * sin, second * cos + first * sin


@jit()
def _rope_kernel(
    q_ptr,  # [tokens, q_heads, head size]
    k_ptr,  # [tokens, k_heads, head size]
    q_out_ptr,  # as q_ptr, and may be it
    k_out_ptr,  # as k_ptr, and may be it
    cos_ptr,  # [tokens, 2 * pairs], of which the first half is read
    sin_ptr,  # [tokens, 2 * pairs], of which the first half is read
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    q_out_stride,
    q_out_head_stride,
    k_out_stride,
    k_out_head_stride,
    cos_stride,
    sin_stride,
    q_heads,
    k_heads,
    pairs,
    sign,  # of sin: 1 forward, -1 backward
    INTERLEAVED: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    token = (tl.program_id(0) // GROUPS).to(tl.int64)
    group = tl.program_id(0) % GROUPS
    pair = tl.arange(0, BLOCK_PAIRS)
    cos = tl.load(cos_ptr + token * cos_stride + pair, mask=pair < pairs, other=0.0)
    sin = tl.load(sin_ptr + token * sin_stride + pair, mask=pair < pairs, other=0.0)
    cos = cos.to(tl.float32)[None, :]
    sin = sin.to(tl.float32)[None, :] * tl.cast(sign, tl.float32)

    q_head = group * BLOCK_Q + tl.arange(0, BLOCK_Q)[:, None]
    k_head = group * BLOCK_K + tl.arange(0, BLOCK_K)[:, None]
    q_ptr += token * q_stride
    k_ptr += token * k_stride
    q_out_ptr += token * q_out_stride
    k_out_ptr += token * k_out_stride
    # Both operands are loaded before either is stored: more bytes are on their way at a time.
    if INTERLEAVED:
        value = tl.arange(0, 2 * BLOCK_PAIRS)[None, :]
        q_mask = (q_head < q_heads) & (value < 2 * pairs)
        k_mask = (k_head < k_heads) & (value < 2 * pairs)
        q_ptrs = q_ptr + q_head * q_head_stride + value
        k_ptrs = k_ptr + k_head * k_head_stride + value
        q = tl.reshape(tl.load(q_ptrs, mask=q_mask, other=0.0), [BLOCK_Q, BLOCK_PAIRS, 2])
        k = tl.reshape(tl.load(k_ptrs, mask=k_mask, other=0.0), [BLOCK_K, BLOCK_PAIRS, 2])
        q_first, q_second = tl.split(q)
        k_first, k_second = tl.split(k)
        q_first, q_second = _rotate(q_first, q_second, cos, sin)
        k_first, k_second = _rotate(k_first, k_second, cos, sin)
        q = tl.reshape(tl.join(q_first, q_second), [BLOCK_Q, 2 * BLOCK_PAIRS])
        k = tl.reshape(tl.join(k_first, k_second), [BLOCK_K, 2 * BLOCK_PAIRS])
        q_ptrs = q_out_ptr + q_head * q_out_head_stride + value
        k_ptrs = k_out_ptr + k_head * k_out_head_stride + value
        tl.store(q_ptrs, q.to(q_out_ptr.dtype.element_ty), mask=q_mask)
        tl.store(k_ptrs, k.to(k_out_ptr.dtype.element_ty), mask=k_mask)
    else:
        q_mask = (q_head < q_heads) & (pair < pairs)[None, :]
        k_mask = (k_head < k_heads) & (pair < pairs)[None, :]
        q_ptrs = q_ptr + q_head * q_head_stride + pair[None, :]
        k_ptrs = k_ptr + k_head * k_head_stride + pair[None, :]
        q_first = tl.load(q_ptrs, mask=q_mask, other=0.0)
        q_second = tl.load(q_ptrs + pairs, mask=q_mask, other=0.0)
        k_first = tl.load(k_ptrs, mask=k_mask, other=0.0)
        k_second = tl.load(k_ptrs + pairs, mask=k_mask, other=0.0)
        q_first, q_second = _rotate(q_first, q_second, cos, sin)
        k_first, k_second = _rotate(k_first, k_second, cos, sin)
        q_ptrs = q_out_ptr + q_head * q_out_head_stride + pair[None, :]
        k_ptrs = k_out_ptr + k_head * k_out_head_stride + pair[None, :]
        tl.store(q_ptrs, q_first.to(q_out_ptr.dtype.element_ty), mask=q_mask)
        tl.store(q_ptrs + pairs, q_second.to(q_out_ptr.dtype.element_ty), mask=q_mask)
        tl.store(k_ptrs, k_first.to(k_out_ptr.dtype.element_ty), mask=k_mask)
        tl.store(k_ptrs + pairs, k_second.to(k_out_ptr.dtype.element_ty), mask=k_mask)


def _tile(q_heads: int, k_heads: int, pairs: int) -> tuple[int, int, int, int]:
    """Programs for a token; heads of q, heads of k and pairs of one program."""
    block_pairs = triton.next_power_of_2(pairs)
    most = max(1, _TILE // (2 * block_pairs))
    groups = triton.cdiv(max(q_heads, k_heads), most)
    block_q, block_k = (triton.next_power_of_2(triton.cdiv(n, groups)) for n in (q_heads, k_heads))
    return groups, block_q, block_k, block_pairs


def rope_(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    interleaved: bool = False,
    inverse: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Apply `rope` to q and k in place, or into `out`; raw: no autograd, Triton only.

    Args:
        q: ``[tokens, heads, size]``, fp32, bf16 or fp16, adjacent along the last dimension; any
            strides along the others that let no two values share memory.
        k: ``[tokens, key heads, size]``, as q. Both may be slices of one fused projection.
        cos, sin: ``[tokens, rotary size]``, as for `rope`, adjacent along the last dimension.
        interleaved: see `rope`.
        inverse: apply the transpose of the map: to gradients of the outputs, it gives those of the
            inputs. Without an attention factor in cos and sin it undoes the map.
        out: tensors like q and k, any such strides, to write to; all that q and k hold is written.

    Raises:
        ValueError: as `rope`, or the last dimension of an operand is not adjacent.
    """
    q_out, k_out = (q, k) if out is None else out
    _check(q, k, cos, sin)
    if (q_out.shape, k_out.shape) != (q.shape, k.shape):
        raise ValueError(
            f"rope_: out must have the shapes of q and k, {tuple(q.shape)} and {tuple(k.shape)}, "
            f"got {tuple(q_out.shape)} and {tuple(k_out.shape)}"
        )
    if any(t.shape[-1] > 1 and t.stride(-1) != 1 for t in (q, k, q_out, k_out, cos, sin)):
        raise ValueError("rope_: q, k, cos and sin must be adjacent along their last dimension")
    if out is not None and cos.shape[-1] < q.shape[-1]:
        q_out[..., cos.shape[-1] :].copy_(q[..., cos.shape[-1] :])
        k_out[..., cos.shape[-1] :].copy_(k[..., cos.shape[-1] :])
    tokens, q_heads, _ = q.shape
    k_heads, pairs = k.shape[1], cos.shape[-1] // 2
    if not (tokens and pairs):
        return
    groups, block_q, block_k, block_pairs = _tile(q_heads, k_heads, pairs)
    with launch_on(q):
        _rope_kernel[(tokens * groups,)](
            q,
            k,
            q_out,
            k_out,
            cos,
            sin,
            q.stride(0),
            q.stride(1),
            k.stride(0),
            k.stride(1),
            q_out.stride(0),
            q_out.stride(1),
            k_out.stride(0),
            k_out.stride(1),
            cos.stride(0),
            sin.stride(0),
            q_heads,
            k_heads,
            pairs,
            -1.0 if inverse else 1.0,
            INTERLEAVED=interleaved,
            GROUPS=groups,
            BLOCK_Q=block_q,
            BLOCK_K=block_k,
            BLOCK_PAIRS=block_pairs,
            num_warps=warps_for(2 * max(block_q, block_k) * block_pairs),
            **COMPILE_OPTIONS,
        )


class _RoPE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool):
        cos, sin = cos.contiguous(), sin.contiguous()
        q, k = _copy(q), _copy(k)
        rope_(q, k, cos, sin, interleaved=interleaved)
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return q, k

    @staticmethod
    @once_differentiable
    def backward(ctx, dq: Tensor, dk: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        dq, dk = _copy(dq), _copy(dk)  # others may hold the gradients of the outputs
        rope_(dq, dk, cos, sin, interleaved=ctx.interleaved, inverse=True)
        return dq, dk, None, None, None


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> tuple[Tensor, Tensor]:
    """Turn each pair of values of q and k by its token's angles.

    Args:
        q: ``[tokens, heads, size]``, any strides, fp32, bf16 or fp16 (float64 takes the reference);
            may have no tokens.
        k: ``[tokens, key heads, size]``, likewise.
        cos, sin: ``[tokens, rotary size]``, the cosines and sines of the angles, the second half
            repeating the first, times any attention factor; fp32, bf16 or fp16. They get no
            gradient. The rotary size is even, and may be less than size: the values behind it are
            passed on as they are.
        interleaved: pairs lie side by side (GLM, Ernie 4.5), not half the rotary size apart.

    Returns:
        q and k with their shapes and dtypes, contiguous where Triton ran.

    Raises:
        ValueError: the shapes do not fit together, or the rotary size is odd.

    Source: Su et al., https://arxiv.org/abs/2104.09864; the attention factor: Peng et al.,
    https://arxiv.org/abs/2309.00071.
    """
    _check(q, k, cos, sin)
    cos, sin = cos.detach(), sin.detach()
    if takes_triton(q, k, cos, sin):
        q_out, k_out = _RoPE.apply(q, k, cos, sin, interleaved)  # pyright: ignore[reportGeneralTypeIssues]
        return q_out, k_out
    return rope_reference(q, k, cos, sin, interleaved=interleaved)


def _check(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    fits = q.dim() == k.dim() == 3 and cos.dim() == 2 and cos.shape == sin.shape
    fits = fits and q.shape[0] == k.shape[0] == cos.shape[0] and q.shape[2] == k.shape[2]
    if not fits or cos.shape[1] % 2 or cos.shape[1] > q.shape[2]:
        raise ValueError(
            f"rope: q and k must be [tokens, heads, size] of one size, cos and sin "
            f"[tokens, rotary size], even and no larger; q is {tuple(q.shape)}, "
            f"k {tuple(k.shape)}, cos {tuple(cos.shape)}, sin {tuple(sin.shape)}"
        )
