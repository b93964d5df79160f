"""AdamW with both moments in 8 bits: the step of ``adamw.py``, on a quarter of the state's bytes.

A moment is a row of uint8 codes. A code is an index into 256 fp32 values between -1 and 1; each block of 256
codes shares one scale, the largest magnitude in it (absmax):

    moment = code_values[code] * absmax                            2.03 bytes for both moments, not 8

The values are dense near 0, since moments within one block differ by orders of magnitude. Positive ones come in
seven decades from 1e-7 to 1, and decade k is cut into equal parts, twice as many as the one below; a value is the
middle of a part:

    10^(k - 7) * (1 + 9 (i + 1/2) / parts)     k = 0 to 6, i < parts = 2^k for the mean, 2^(k + 1) for the square

To them come 0 and 1, and for the mean the mirror images of all but 1. Rounding goes to the nearest value. Inside a
decade that is the part in which a number lies, so the kernel computes codes instead of searching 256 values, eight
dependent loads a moment. Parts counted from below are a line over x in each decade, the next decade's begins where it
ends and is flatter: the part in which x lies is the least of seven lines. Only where decades meet does the nearest
value change elsewhere, between 1 - 0.9 / parts and 1 + 4.5 / parts of the upper decade's lower end: at 1 + 1.8 / parts,
which is the first fifth of its first part.

A step uses both moments as they come out of fp32 arithmetic and rounds them only to store them. One rounding is
not to the nearest: **a square above 0 never becomes 0**. Below 1.6e-7 of its block's largest, bitsandbytes on a GPU
stores the square as 0 (it sees to the mean's sign only), whereas the mean of the same parameter is still stored. A
small gradient in the next step, g, then finds a square of (1 - beta2) g^2 and moves the parameter by up to 1 /
sqrt(1 - beta2) = 32 times what it should; a gradient of 0 finds a square of 0, and moves it by mean / eps, a thousand
learning rates and more. Here it gets the smallest value above 0, 3.25e-7: the root is then too large, by no more than
5.7e-4 of the block's largest, which acts as a larger eps and damps.

A program owns whole blocks, so a block's new absmax needs no second pass. Norm, clip and count of steps are
``adamw.py``'s.

Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022 (dynamic tree quantisation), with the block
size of bitsandbytes and its code values, ``functional.create_dynamic_map``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .adamw import AdamWSettings, prepare_step, update_arguments, updated, updated_reference
from .backend import COMPILE_OPTIONS, jit, launch_on, takes_triton, tl, triton

BLOCK = 256
"""Codes that share a scale. Parameters that share no block must start at multiples of it."""

_ROWS = 4
"""Blocks of a program: one for each of 4 warps, which finds its absmax without shared memory."""

_DECADES = 7


def code_values(signed: bool) -> Tensor:
    """The 256 values in rising order, fp32, on the CPU: of the mean (signed) or of the square."""
    positive: list[float] = []
    for decade in range(_DECADES):
        parts = 2**decade if signed else 2 ** (decade + 1)
        low = 10.0 ** (decade - _DECADES)
        positive += [low * (1 + 9 * (i + 0.5) / parts) for i in range(parts)]
    negative = [-value for value in reversed(positive)] if signed else []
    return torch.tensor([*negative, 0.0, *positive, 1.0], dtype=torch.float64).float()


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments8Bit:
    """Both moments of n parameters, b = ceil(n / 256) blocks.

    Raises:
        ValueError: tensors whose sizes, dtypes or devices do not fit together.
    """

    mean: Tensor
    """Codes, uint8 ``[n]``."""
    mean_absmax: Tensor
    """fp32 ``[b]``."""
    mean_values: Tensor
    """What the codes of the mean stand for, fp32 ``[256]``; see `code_values`."""
    square: Tensor
    """As for the mean, in this line and the two below."""
    square_absmax: Tensor
    square_values: Tensor

    def __post_init__(self) -> None:
        n = self.mean.numel()
        blocks = -(-n // BLOCK)
        for name, dtype, count in (
            ("mean", torch.uint8, n),
            ("mean_absmax", torch.float32, blocks),
            ("mean_values", torch.float32, 256),
            ("square", torch.uint8, n),
            ("square_absmax", torch.float32, blocks),
            ("square_values", torch.float32, 256),
        ):
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.shape != (count,) or not tensor.is_contiguous():
                raise ValueError(
                    f"Moments8Bit: {name} must be {count} adjacent values of {dtype}, "
                    f"not {tuple(tensor.shape)} of {tensor.dtype}"
                )
            if tensor.device != self.mean.device:
                raise ValueError(f"Moments8Bit: {name} is on {tensor.device}, the mean on {self.mean.device}")

    @staticmethod
    def zeros(n: int, device: torch.device | str) -> Moments8Bit:
        """Moments of 0."""
        tensors: dict[str, Tensor] = {}
        for name, signed in (("mean", True), ("square", False)):
            values = code_values(signed)
            zero = int((values < 0).sum())
            tensors[name] = torch.full((n,), zero, dtype=torch.uint8, device=device)
            tensors[f"{name}_absmax"] = torch.zeros(-(-n // BLOCK), dtype=torch.float32, device=device)
            tensors[f"{name}_values"] = values.to(device)
        return Moments8Bit(**tensors)


@jit()
def _decode(codes, absmax, values_ptr):
    """fp32 moments of ``[rows, BLOCK]`` codes."""
    return tl.load(values_ptr + codes.to(tl.int32)) * absmax[:, None]


@jit()
def _inverse(absmax):
    """1 / absmax; 0 where that might overflow: what is that small, eps outweighs by far."""
    return tl.where(absmax > 1e-37, 1.0 / tl.maximum(absmax, 1e-37), 0.0)


@jit()
def _encode(moments, FIRST: tl.constexpr):
    """Codes (int32) of fp32 moments ``[rows, BLOCK]``, and the rows' absmax.

    `FIRST` is the parts of the lowest decade: 1 for the mean, 2 for the square. Positive values are
    counted on from it, so that every decade begins at its number of parts.
    """
    absmax = tl.max(tl.abs(moments), axis=1)
    x = tl.abs(moments) * _inverse(absmax)[:, None]
    line = x * (FIRST * 1e7 / 9.0) + FIRST * 8.0 / 9.0
    for decade in tl.static_range(1, 7):  # pyright: ignore[reportGeneralTypeIssues]
        parts = FIRST * 2.0**decade
        line = tl.minimum(line, x * (parts * 10.0 ** (7 - decade) / 9.0) + parts * 8.0 / 9.0)
    part = tl.floor(line)
    place = part.to(tl.int32)
    # In the first fifth of a decade's first part the nearest value is the last of the decade below.
    begins = ((place & (place - 1)) == 0) & (line - part < 0.2)
    place = tl.minimum(tl.maximum(tl.where(begins, place - 1, place), FIRST), FIRST * 128 - 1)
    place = tl.where(x > 0.5e-7 * (1.0 + 4.5 / FIRST), place, FIRST - 1)
    place = tl.where(x > 1.0 - 0.225 / (FIRST * 64.0), FIRST * 128, place)
    if FIRST == 1:
        return tl.where(moments < 0.0, 127 - tl.minimum(place, 127), 127 + place), absmax
    # See the module: above 0 it stays above 0.
    return tl.where(moments > 0.0, tl.maximum(place, FIRST), FIRST - 1) - (FIRST - 1), absmax


# `n` may be specialised: it does not change in a run, and that it is a multiple of 16 makes wide loads
# of masked ones.
@jit(do_not_specialize=["rate"])
def _adamw_8bit_kernel(
    param_ptr,  # [n], fp32, as the gradient
    grad_ptr,
    mean_ptr,  # [n], uint8, as the square
    mean_absmax_ptr,  # [n / BLOCK], fp32
    mean_values_ptr,  # [256], fp32
    square_ptr,
    square_absmax_ptr,
    square_values_ptr,
    scalars_ptr,  # [4], see _prepare_kernel
    n,
    rate,
    beta1,
    rest1,
    beta2,
    rest2,
    eps,
    weight_decay,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = rows[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask, row_mask = at < n, rows * BLOCK < n
    end = tl.where(tl.load(scalars_ptr + 3) > 0.0, n, 0)  # of what is updated
    update, row_update = at < end, rows * BLOCK < end

    mean_absmax = tl.load(mean_absmax_ptr + rows, mask=row_mask, other=0.0)
    square_absmax = tl.load(square_absmax_ptr + rows, mask=row_mask, other=0.0)
    mean = _decode(tl.load(mean_ptr + at, mask=mask, other=0), mean_absmax, mean_values_ptr)
    square = _decode(tl.load(square_ptr + at, mask=mask, other=0), square_absmax, square_values_ptr)
    grad = tl.load(grad_ptr + at, mask=mask, other=0.0)
    param = tl.load(param_ptr + at, mask=mask, other=0.0)
    param, mean, square = updated(
        param, grad, mean, square, scalars_ptr, rate, beta1, rest1, beta2, rest2, eps, weight_decay
    )
    tl.store(param_ptr + at, param, mask=update)
    tl.store(grad_ptr + at, tl.zeros_like(grad), mask=mask)

    codes, absmax = _encode(tl.where(mask, mean, 0.0), 1)
    tl.store(mean_ptr + at, codes.to(tl.uint8), mask=update)
    tl.store(mean_absmax_ptr + rows, absmax, mask=row_update)
    codes, absmax = _encode(tl.where(mask, square, 0.0), 2)
    tl.store(square_ptr + at, codes.to(tl.uint8), mask=update)
    tl.store(square_absmax_ptr + rows, absmax, mask=row_update)


def decode_reference(codes: Tensor, absmax: Tensor, values: Tensor) -> Tensor:
    """The fp32 moment ``[n]`` that codes ``[n]`` and their blocks' absmax ``[b]`` stand for."""
    return values[codes.int()] * absmax.repeat_interleave(BLOCK)[: codes.numel()]


def encode_reference(moment: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes uint8 ``[n]`` of the nearest `values`, and absmax fp32 ``[b]``, of a moment ``[n]``.

    A moment above 0 gets no code of 0 where `values` are the square's; see the module.
    """
    n = moment.numel()
    blocks = torch.nn.functional.pad(moment, (0, -n % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1)
    inverse = torch.where(absmax > 1e-37, 1 / absmax, 0.0)
    x = (blocks * inverse[:, None]).flatten()[:n]
    codes = torch.bucketize(x, (values[1:] + values[:-1]) / 2)
    codes = torch.where((values[0] == 0) & (moment > 0), codes.clamp(min=1), codes)
    return codes.to(torch.uint8), absmax


def adamw_8bit_step_reference(
    param: Tensor,
    grad: Tensor,
    moments: Moments8Bit,
    step: Tensor,
    rate: float,
    settings: AdamWSettings,
) -> Tensor:
    """`adamw_8bit_step` in plain torch."""
    m = moments
    mean = decode_reference(m.mean, m.mean_absmax, m.mean_values)
    square = decode_reference(m.square, m.square_absmax, m.square_values)
    norm, moved, mean, square = updated_reference(param, grad, mean, square, step, rate, settings)
    param.copy_(moved)
    # Where the norm is not finite the moments come back as they were decoded, which need not be the codes
    # again: the negative mean of largest magnitude is below 1.
    finite = torch.isfinite(norm)
    for old, new in (
        ((m.mean, m.mean_absmax), encode_reference(mean, m.mean_values)),
        ((m.square, m.square_absmax), encode_reference(square, m.square_values)),
    ):
        for target, value in zip(old, new, strict=True):
            target.copy_(torch.where(finite, value, target))
    grad.zero_()
    return norm


def adamw_8bit_step(
    param: Tensor,
    grad: Tensor,
    moments: Moments8Bit,
    step: Tensor,
    rate: float,
    settings: AdamWSettings,
) -> Tensor:
    """One step in place, and the gradient set to zero.

    Args:
        param, grad: ``[n]``, contiguous, fp32.
        moments: of as many values.
        step: ``[]``, fp32: steps done so far; counted up unless the norm is not finite.
        rate: the learning rate of this step.

    Returns:
        ``[]``, the gradient's norm before the clip, on the device. Where it is not finite nothing but
        the gradient was changed.

    Raises:
        ValueError: the buffers differ in size, are not contiguous or not fp32.
    """
    sizes = [tuple(t.shape) for t in (param, grad, moments.mean)]
    fits = all(t.is_contiguous() and t.dtype == torch.float32 for t in (param, grad))
    if len(set(sizes)) != 1 or not fits:
        raise ValueError(
            f"adamw_8bit_step: buffers must be contiguous, of one size and fp32, "
            f"got {sizes}, {param.dtype} and {grad.dtype}"
        )
    if not takes_triton(param, grad):
        return adamw_8bit_step_reference(param, grad, moments, step, rate, settings)
    norm, scalars = prepare_step(grad, step, settings)
    n = param.numel()
    with launch_on(param):
        _adamw_8bit_kernel[(triton.cdiv(n, _ROWS * BLOCK),)](
            param,
            grad,
            moments.mean,
            moments.mean_absmax,
            moments.mean_values,
            moments.square,
            moments.square_absmax,
            moments.square_values,
            scalars,
            n,
            *update_arguments(rate, settings),
            ROWS=_ROWS,
            BLOCK=BLOCK,
            **COMPILE_OPTIONS,
        )
    return norm
