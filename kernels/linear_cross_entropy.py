"""The frozen loss head: ``cross_entropy(hidden @ weight.T, labels)`` for each row, and the gradient
of the hidden states, without the logits of more than one chunk of rows and without any gradient of
the weight.

Row t of the gradient is ``g_t * (softmax_t - onehot_t) @ weight``, where g_t, the gradient of the
row's loss, is the only part that the forward does not know. So the forward computes this row for
g_t = 1 while it has the logits at hand, and the backward only scales it. That makes 4*M*H*V FLOPs
for M rows, H hidden units and a vocabulary of V (recomputing the logits would make it 6), and it
holds for every loss that is built from the log-probabilities of labels: SFT sums them; DPO, KTO and
ORPO weigh them. Nobody wants the gradient (``torch.no_grad``): 2*M*H*V.

Chunks are blocks of rows over the whole vocabulary. So one matmul yields the chunk's gradient and
adds up all of V in its own fp32 accumulator, rows are independent of each other, and the number of
chunks follows from the shapes alone, as CUDA graphs need. All chunks share one buffer, in which
`_cross_entropy_kernel` replaces logits by their gradient.

Rounding is that of transformers: logits are rounded to the dtype of the hidden states and everything
after is fp32, up to the gradient of the logits, which the second matmul takes in that dtype again.
Soft-cap and logit scale count as "after": model code that applies them to bf16 logits rounds more.
One rounding comes on top: the rows kept for the backward have the dtype of the hidden states (fp32
rows would take twice the memory) and are rounded again when scaled, unless g_t is a power of two.

The kernel walks over a row twice: maximum and sum of exponentials (online: Milakov and Gimelshein,
"Online normalizer calculation for softmax", 2018), then the gradient. The second walk goes
backwards, so that it meets first what was read last and the L2 cache still holds. One program does
a whole row also where there are few rows and a vocabulary of 256k: the two matmuls then read all of
the weight, thousands of times as many bytes as that row has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import COMPILE_OPTIONS, jit, launch_on, takes_triton, tl, triton
from .matmul import matmul
from .matmul_choices import Product

CHUNK_BYTES = 512 << 20
"""Logits that are alive at a time: 2,048 rows of a 128k vocabulary in bf16, far more than
the 200 from which arithmetic, not reading the weight, bounds the matmuls on an H200."""

_ROWS = 128
"""Chunks are multiples of it, the tile height of the matmuls, and hold at least half of it."""

_PADDING = 64
"""Rows of the buffer start at multiples of this many values, whatever V is (a vocabulary with one
token added is odd): the kernel then loads 16 bytes at a time, and so does the matmul."""

_TILE = 16384
"""Values of a row in registers at most: 32 warps with 16 values a thread. A processor has room for
one or two such programs, so that the rows in work (132 or 264 of 256 KB on an H200) are about what
L2 holds (50 MB)."""


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    ignore_index: int = -100,
) -> Tensor:
    """The formula in plain torch, all logits at once and differentiable in every operand; see
    `linear_cross_entropy`. float64 stays float64.

    Source: ``ForCausalLMLoss`` and ``Gemma2ForCausalLM`` of transformers.
    """
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")


@jit()
def _scaled(logits, logit_scale, softcap, SOFT_CAP: tl.constexpr):
    """Logits in fp32 after scale and soft-cap, and the derivative of both."""
    scaled = logits.to(tl.float32) * logit_scale
    slope = logit_scale
    if SOFT_CAP:
        ratio = scaled / softcap
        decay = tl.exp(-2.0 * tl.abs(ratio))  # never overflows
        tanh = (1.0 - decay) / (1.0 + decay)
        scaled = softcap * tl.where(ratio < 0, -tanh, tanh)
        slope = logit_scale * 4.0 * decay / ((1.0 + decay) * (1.0 + decay))
    return scaled, slope


@jit()
def _cross_entropy_kernel(
    logits_ptr,  # [rows, row_stride], of which n_cols are used; the gradient replaces them
    labels_ptr,  # [rows], int64
    loss_ptr,  # [rows], fp32
    row_stride,
    n_cols,
    logit_scale,
    softcap,  # not read without SOFT_CAP
    IGNORE_INDEX: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    GRADIENT: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * row_stride
    # A lane is WIDTH neighbours, in one thread: maxima and sums of lanes need no exchange.
    tile_cols = tl.arange(0, LANES)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tiles = tl.cdiv(n_cols, LANES * WIDTH)
    logit_scale = tl.cast(logit_scale, tl.float32)
    softcap = tl.cast(softcap, tl.float32)

    label = tl.load(labels_ptr + row)
    if label == IGNORE_INDEX:
        tl.store(loss_ptr + row, 0.0)
        if GRADIENT:
            zeros = tl.zeros([LANES, WIDTH], dtype=logits_ptr.dtype.element_ty)
            for tile in range(tiles):
                cols = tile * LANES * WIDTH + tile_cols
                tl.store(row_ptr + cols, zeros, mask=cols < row_stride)
        return

    inside = tl.minimum(tl.maximum(label, 0), n_cols - 1)
    wanted, _wanted_slope = _scaled(tl.load(row_ptr + inside), logit_scale, softcap, SOFT_CAP)

    # Masks end at the padding, so that a lane is loaded as a whole; `where` drops what it holds.
    # The start is finite: -inf minus -inf, in a lane past the row's end, would be NaN.
    maxima = tl.full([LANES], -3.0e38, dtype=tl.float32)
    sums = tl.zeros([LANES], dtype=tl.float32)
    for tile in range(tiles):
        cols = tile * LANES * WIDTH + tile_cols
        logits = tl.load(row_ptr + cols, mask=cols < row_stride, other=0.0, eviction_policy="evict_last")
        scaled, _slope = _scaled(logits, logit_scale, softcap, SOFT_CAP)
        scaled = tl.where(cols < n_cols, scaled, float("-inf"))
        higher = tl.maximum(maxima, tl.max(scaled, axis=1))
        sums = sums * tl.exp(maxima - higher) + tl.sum(tl.exp(scaled - higher[:, None]), axis=1)
        maxima = higher
    top = tl.max(maxima, axis=0)
    total = tl.sum(sums * tl.exp(maxima - top), axis=0)

    total = tl.where(label == inside, total, float("nan"))
    tl.store(loss_ptr + row, tl.log(total) + (top - wanted))

    if GRADIENT:
        tl.debug_barrier()  # no thread overwrites the label's logit before all have read it
        for index in range(tiles):
            cols = (tiles - 1 - index) * LANES * WIDTH + tile_cols
            mask = cols < row_stride
            logits = tl.load(row_ptr + cols, mask=mask, other=0.0, eviction_policy="evict_first")
            scaled, slope = _scaled(logits, logit_scale, softcap, SOFT_CAP)
            softmax = tl.exp(scaled - top) / total
            gradient = tl.where(cols == label, softmax - 1.0, softmax) * slope
            gradient = gradient.to(logits_ptr.dtype.element_ty)
            tl.store(row_ptr + cols, gradient, mask=mask, eviction_policy="evict_first")


def _cross_entropy_torch(
    logits: Tensor,
    labels: Tensor,
    loss: Tensor,
    softcap: float | None,
    logit_scale: float,
    ignore_index: int,
    want_gradient: bool,
) -> None:
    """What `_cross_entropy_kernel` does, in plain torch, with the same rounding."""
    scaled = logits.to(loss.dtype) * logit_scale
    slope: Tensor | float = logit_scale
    if softcap is not None:
        tanh = torch.tanh(scaled / softcap)
        scaled, slope = softcap * tanh, (1 - tanh * tanh) * logit_scale
    ignored = labels == ignore_index
    inside = labels.clamp(0, logits.shape[1] - 1)
    top = scaled.amax(1)
    wanted = scaled.gather(1, inside[:, None])[:, 0]
    exponentials = scaled.sub_(top[:, None]).exp_()
    total = exponentials.sum(1).masked_fill(labels != inside, float("nan"))
    loss.copy_((total.log() + (top - wanted)).masked_fill(ignored, 0.0))
    if want_gradient:
        softmax = exponentials.div_(total[:, None])
        softmax.scatter_add_(1, inside[:, None], softmax.new_full((len(labels), 1), -1.0))
        logits.copy_(softmax.mul_(slope).masked_fill_(ignored[:, None], 0.0))


def _cross_entropy_triton(
    logits: Tensor,
    labels: Tensor,
    loss: Tensor,
    softcap: float | None,
    logit_scale: float,
    ignore_index: int,
    want_gradient: bool,
) -> None:
    n_rows, n_cols = logits.shape
    width = 16 // logits.element_size()  # one full-width load
    tile = min(_TILE, max(1024, triton.next_power_of_2(n_cols)))
    with launch_on(logits):
        _cross_entropy_kernel[(n_rows,)](
            logits,
            labels,
            loss,
            logits.stride(0),
            n_cols,
            float(logit_scale),
            0.0 if softcap is None else float(softcap),
            IGNORE_INDEX=ignore_index,
            SOFT_CAP=softcap is not None,
            GRADIENT=want_gradient,
            LANES=tile // width,
            WIDTH=width,
            num_warps=max(4, tile // (16 * 32)),
            **COMPILE_OPTIONS,
        )


def _chunk_rows(n_rows: int, row_bytes: int, chunk_bytes: int) -> int:
    """Rows of a chunk: as few chunks as `chunk_bytes` allows, of about one size, because a last
    chunk of a few rows would read the whole weight for them."""
    most = chunk_bytes // row_bytes
    step = _ROWS if most >= _ROWS else _ROWS // 2
    chunks = max(1, _ceil_div(n_rows, max(step, most // step * step)))
    return min(n_rows, _ceil_div(_ceil_div(n_rows, chunks), step) * step)


def products(n_rows: int, weight: Tensor) -> list[Product]:
    """The matmuls of a call with `n_rows` labels, for `matmul.tune`."""
    n_cols, width = weight.shape
    row_bytes = _ceil_div(n_cols, _PADDING) * _PADDING * weight.dtype.itemsize
    step = _chunk_rows(n_rows, row_bytes, CHUNK_BYTES)
    return [Product(step, n_cols, width, True), Product(step, width, n_cols, False)]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@torch.no_grad()
def linear_cross_entropy_forward(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    want_gradient: bool,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    ignore_index: int = -100,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor | None]:
    """`linear_cross_entropy` without autograd, for backward passes written by hand.

    Returns:
        The losses, and the gradient of each row's loss, ``[M, H]`` in the dtype of `hidden` and
        contiguous: what `linear_cross_entropy_backward` takes. None without `want_gradient`, which
        halves the FLOPs.

    Raises:
        ValueError: as `linear_cross_entropy`, which alone asks whether the head is frozen.
    """
    _check(hidden, weight, labels, bias, softcap)
    (n_rows, _), (n_cols, _) = hidden.shape, weight.shape
    dtype, device = hidden.dtype, hidden.device
    row_stride = _ceil_div(n_cols, _PADDING) * _PADDING
    step = _chunk_rows(n_rows, row_stride * dtype.itemsize, chunk_bytes)
    labels = labels.contiguous()
    loss = torch.empty(n_rows, dtype=torch.promote_types(dtype, torch.float32), device=device)
    dhidden = torch.empty(hidden.shape, dtype=dtype, device=device) if want_gradient else None
    if n_rows == 0:
        return loss, dhidden

    buffer = torch.empty((step, row_stride), dtype=dtype, device=device)
    cross_entropy = _cross_entropy_triton if takes_triton(hidden, weight) else _cross_entropy_torch
    for start in range(0, n_rows, step):
        chunk = slice(start, min(start + step, n_rows))
        logits = buffer[: chunk.stop - start, :n_cols]
        if bias is None:
            matmul(hidden[chunk], weight.t(), logits)
        else:
            torch.addmm(bias, hidden[chunk], weight.t(), out=logits)
        cross_entropy(logits, labels[chunk], loss[chunk], softcap, logit_scale, ignore_index, want_gradient)
        if dhidden is not None:  # `logits` holds their gradient now
            matmul(logits, weight, dhidden[chunk])
    return loss, dhidden


@torch.no_grad()
def linear_cross_entropy_backward(dhidden: Tensor, dloss: Tensor) -> Tensor:
    """Scale the gradients of single losses to that of what was made of them.

    Args:
        dhidden: ``[M, H]``, from `linear_cross_entropy_forward`; left as it is.
        dloss: ``[M]``, the gradient of each loss, any stride.

    Returns:
        ``[M, H]`` in the dtype of `dhidden`, rounded once from the fp32 product.
    """
    # One pass on a GPU: it promotes both, and converts the product, value by value.
    return torch.mul(dhidden, dloss[:, None], out=torch.empty_like(dhidden))


def _check(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, softcap: float | None) -> None:
    shapes = f"hidden is {tuple(hidden.shape)}, weight is {tuple(weight.shape)}, labels is {tuple(labels.shape)}"
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"linear_cross_entropy: needs hidden [M, H] and weight [V, H]; {shapes}")
    if labels.shape != hidden.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"linear_cross_entropy: needs one int64 label for each row of hidden; {shapes} {labels.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear_cross_entropy: needs bias [V]; {shapes}, bias is {tuple(bias.shape)}")
    others = [t for t in (weight, bias) if t is not None]
    if any(t.dtype != hidden.dtype for t in others):
        raise ValueError(
            f"linear_cross_entropy: hidden, weight and bias must have one dtype; "
            f"hidden is {hidden.dtype}, others are {[t.dtype for t in others]}"
        )
    if any(t.device != hidden.device for t in (labels, *others)):
        raise ValueError(
            f"linear_cross_entropy: all operands must be on one device; hidden is on "
            f"{hidden.device}, labels on {labels.device}, others on {[t.device for t in others]}"
        )
    if softcap is not None and softcap <= 0:
        raise ValueError(f"linear_cross_entropy: softcap must be positive or None, not {softcap}")


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        logit_scale: float,
        ignore_index: int,
        chunk_bytes: int,
    ) -> Tensor:
        loss, dhidden = linear_cross_entropy_forward(
            hidden,
            weight,
            labels,
            want_gradient=True,
            bias=bias,
            softcap=softcap,
            logit_scale=logit_scale,
            ignore_index=ignore_index,
            chunk_bytes=chunk_bytes,
        )
        ctx.save_for_backward(dhidden)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (dhidden,) = ctx.saved_tensors
        return linear_cross_entropy_backward(dhidden, dloss), *[None] * 7


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    ignore_index: int = -100,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Negative log-likelihood of each label under a frozen output layer.

    Row t is ``-log_softmax(cap(logit_scale * (hidden[t] @ weight.T + bias)))[labels[t]]``, with
    ``cap(x) = softcap * tanh(x / softcap)``. Nothing waits for the device.

    Args:
        hidden: ``[M, H]``, the rows to score, any strides, fp32, bf16 or fp16 (float64 is computed
            by plain torch in float64); M may be 0. Only `hidden` gets a gradient.
        weight: ``[V, H]``, frozen, in the dtype of `hidden`.
        labels: ``[M]``, int64. A row labelled `ignore_index` has loss 0 and gradient 0. Any other
            label outside ``[0, V)`` gives its row a loss and a gradient of NaN, so that the error
            shows without a device-side assertion, after which the process can use the GPU no more.
        bias: ``[V]``, frozen, in the dtype of `hidden`.
        softcap: bound of the logits' magnitude (Gemma 2), or None.
        logit_scale: factor of the logits (Cohere; 1 / ``logits_scaling`` of Granite).
        ignore_index: the label of rows that do not count.
        chunk_bytes: how many bytes of logits may be alive at a time (they are in the dtype of
            `hidden`); at least 64 rows are.

    Returns:
        ``[M]`` in nats, fp32: minus the log-probability of each label. Differentiable once.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, `softcap` is not positive, or `weight` or
            `bias` requires a gradient.
    """
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError(
            "linear_cross_entropy: a frozen head: weight and bias get no gradient, but one of them "
            "requires it; detach it, or use linear_cross_entropy_reference"
        )
    if torch.is_grad_enabled() and hidden.requires_grad:
        loss = _LinearCrossEntropy.apply(hidden, weight, labels, bias, softcap, logit_scale, ignore_index, chunk_bytes)
        assert isinstance(loss, Tensor)  # apply() is typed as returning anything
        return loss
    loss, _ = linear_cross_entropy_forward(
        hidden,
        weight,
        labels,
        want_gradient=False,
        bias=bias,
        softcap=softcap,
        logit_scale=logit_scale,
        ignore_index=ignore_index,
        chunk_bytes=chunk_bytes,
    )
    return loss
