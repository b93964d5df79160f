"""AdamW over one flat buffer, with the clip by the gradient's norm, without waiting for the device.

All parameters lie in one fp32 buffer, as do their gradients and both moments, so a step is three launches
however many matrices an adapter has:

1. sums of squares of the gradient, one for each program;
2. one program turns them into the norm, the clip factor and the bias corrections, and counts the step;
3. every program updates its share, and sets the gradient to zero for the next accumulation.

With g the clipped gradient, t the number of this step, and lr, beta1, beta2, eps and wd as usual:

    m = beta1 m + (1 - beta1) g            v = beta2 v + (1 - beta2) g^2
    p = p (1 - lr wd) - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)

Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019; the clip is
``torch.nn.utils.clip_grad_norm_``'s. A norm that is not finite changes nothing but the gradient, which is
dropped: the step is not counted. Sums go in a fixed order, so the same input gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .backend import COMPILE_OPTIONS, jit, launch_on, takes_triton, tl, triton

_BLOCK = 2048
"""Values of a program's turn: 16 a thread at 4 warps."""

_MOST_PARTIALS = 1024
"""Programs that sum squares; the second kernel reads all their sums at once."""


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """Everything that stays the same from step to step but the learning rate."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_norm: float = 1.0


@jit()
def _squares_kernel(
    grad_ptr,  # [n], fp32
    partial_ptr,  # [programs], fp32
    n,
    BLOCK: tl.constexpr,
):
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        grad = tl.load(grad_ptr + at, mask=at < n, other=0.0)
        total += grad * grad
    tl.store(partial_ptr + tl.program_id(0), tl.sum(total, axis=0))


@jit(do_not_specialize=["n_partials"])
def _prepare_kernel(
    partial_ptr,  # [n_partials], fp32
    step_ptr,  # [], fp32: steps done; counted up
    norm_ptr,  # [], fp32
    scalars_ptr,  # [4], fp32: clip factor, 1 - beta1^t, sqrt(1 - beta2^t), whether to update
    n_partials,
    log_beta1,
    log_beta2,
    max_norm,
    BLOCK: tl.constexpr,
):
    at = tl.arange(0, BLOCK)
    norm = tl.sqrt(tl.sum(tl.load(partial_ptr + at, mask=at < n_partials, other=0.0), axis=0))
    finite = norm < float("inf")  # no for NaN as well
    step = tl.load(step_ptr) + tl.where(finite, 1.0, 0.0)
    # In fp64: 1 - 0.999^1 has lost five digits in fp32.
    wide = tl.maximum(step, 1.0).to(tl.float64)
    bias1 = 1.0 - tl.exp(wide * tl.cast(log_beta1, tl.float64))
    bias2 = 1.0 - tl.exp(wide * tl.cast(log_beta2, tl.float64))
    tl.store(step_ptr, step)
    tl.store(norm_ptr, norm)
    tl.store(scalars_ptr, tl.minimum(tl.cast(max_norm, tl.float32) / (norm + 1e-6), 1.0))
    tl.store(scalars_ptr + 1, bias1.to(tl.float32))
    tl.store(scalars_ptr + 2, tl.sqrt(bias2).to(tl.float32))
    tl.store(scalars_ptr + 3, tl.where(finite, 1.0, 0.0))


@jit()
def updated(
    param,
    grad,
    mean,
    square,
    scalars_ptr,  # [4], see _prepare_kernel
    rate,
    beta1,
    rest1,  # 1 - beta1: taken in fp32, 1 - 0.999 would be off by 1e-5
    beta2,
    rest2,
    eps,
    weight_decay,
):
    """Parameter, mean and square after the step, fp32; the gradient comes as it is, not clipped."""
    rate = tl.cast(rate, tl.float32)
    grad = grad * tl.load(scalars_ptr)
    mean = tl.cast(beta1, tl.float32) * mean + tl.cast(rest1, tl.float32) * grad
    square = tl.cast(beta2, tl.float32) * square + tl.cast(rest2, tl.float32) * grad * grad
    slope = mean / (tl.sqrt(square) / tl.load(scalars_ptr + 2) + tl.cast(eps, tl.float32))
    kept = 1.0 - rate * tl.cast(weight_decay, tl.float32)
    return param * kept - rate / tl.load(scalars_ptr + 1) * slope, mean, square


@jit(do_not_specialize=["rate"])
def _update_kernel(
    param_ptr,  # [n], fp32, as the others
    grad_ptr,
    mean_ptr,
    square_ptr,
    scalars_ptr,  # [4], see _prepare_kernel
    n,
    rate,
    beta1,
    rest1,
    beta2,
    rest2,
    eps,
    weight_decay,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    update = mask & (tl.zeros([BLOCK], dtype=tl.float32) + tl.load(scalars_ptr + 3) > 0.0)
    grad = tl.load(grad_ptr + at, mask=mask, other=0.0)
    mean = tl.load(mean_ptr + at, mask=mask, other=0.0)
    square = tl.load(square_ptr + at, mask=mask, other=0.0)
    param = tl.load(param_ptr + at, mask=mask, other=0.0)
    param, mean, square = updated(
        param, grad, mean, square, scalars_ptr, rate, beta1, rest1, beta2, rest2, eps, weight_decay
    )
    tl.store(mean_ptr + at, mean, mask=update)
    tl.store(square_ptr + at, square, mask=update)
    tl.store(param_ptr + at, param, mask=update)
    tl.store(grad_ptr + at, tl.zeros_like(grad), mask=mask)


def prepare_step(grad: Tensor, step: Tensor, settings: AdamWSettings) -> tuple[Tensor, Tensor]:
    """The first two launches, which every form of the step shares; counts it in `step`.

    Returns:
        The norm ``[]`` and the scalars ``[4]`` that the update reads, fp32; see `_prepare_kernel`.
    """
    programs = min(triton.cdiv(grad.numel(), _BLOCK), _MOST_PARTIALS)
    partials = torch.empty(programs, dtype=torch.float32, device=grad.device)
    scalars = torch.empty(4, dtype=torch.float32, device=grad.device)
    norm = torch.empty((), dtype=torch.float32, device=grad.device)
    with launch_on(grad):
        _squares_kernel[(programs,)](grad, partials, grad.numel(), BLOCK=_BLOCK, **COMPILE_OPTIONS)
        _prepare_kernel[(1,)](
            partials,
            step,
            norm,
            scalars,
            programs,
            math.log(settings.beta1) if settings.beta1 else -math.inf,
            math.log(settings.beta2) if settings.beta2 else -math.inf,
            settings.max_norm,
            BLOCK=_MOST_PARTIALS,
            **COMPILE_OPTIONS,
        )
    return norm, scalars


def update_arguments(rate: float, settings: AdamWSettings) -> tuple[float, ...]:
    """What `updated` takes from `rate` on."""
    return (
        rate,
        settings.beta1,
        1 - settings.beta1,
        settings.beta2,
        1 - settings.beta2,
        settings.eps,
        settings.weight_decay,
    )


def updated_reference(
    param: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    rate: float,
    settings: AdamWSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Norm, parameter, mean and square after a step, each as it was where the norm is not finite;
    counts the step and changes nothing else. See `adamw_step`."""
    norm = torch.linalg.vector_norm(grad)
    finite = torch.isfinite(norm)
    step += finite
    number = step.double().clamp(min=1.0)
    bias1, bias2 = 1 - settings.beta1**number, 1 - settings.beta2**number
    clipped = grad * (settings.max_norm / (norm + 1e-6)).clamp(max=1.0)
    new_mean = settings.beta1 * mean + (1 - settings.beta1) * clipped
    new_square = settings.beta2 * square + (1 - settings.beta2) * clipped * clipped
    slope = new_mean / (new_square.sqrt() / bias2.sqrt().to(param.dtype) + settings.eps)
    moved = param * (1 - rate * settings.weight_decay)
    moved = moved - (rate / bias1).to(param.dtype) * slope
    new_param, new_mean, new_square = (
        torch.where(finite, new, old) for new, old in ((moved, param), (new_mean, mean), (new_square, square))
    )
    return norm, new_param, new_mean, new_square


def adamw_step_reference(
    param: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    rate: float,
    settings: AdamWSettings,
) -> Tensor:
    """`adamw_step` in plain torch."""
    old = (param, mean, square)
    norm, *new = updated_reference(param, grad, mean, square, step, rate, settings)
    for target, value in zip(old, new, strict=True):
        target.copy_(value)
    grad.zero_()
    return norm


def adamw_step(
    param: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    rate: float,
    settings: AdamWSettings,
) -> Tensor:
    """One step in place, and the gradient set to zero.

    Args:
        param, grad, mean, square: ``[n]``, contiguous, fp32 (float64 takes the reference).
        step: ``[]``, fp32: steps done so far; counted up unless the norm is not finite.
        rate: the learning rate of this step.

    Returns:
        ``[]``, the gradient's norm before the clip, on the device.

    Raises:
        ValueError: the buffers differ in size or are not contiguous.
    """
    buffers = (param, grad, mean, square)
    if len({t.shape for t in buffers}) != 1 or not all(t.is_contiguous() for t in buffers):
        raise ValueError(
            f"adamw_step: buffers must be contiguous and of one size, got {[tuple(t.shape) for t in buffers]}"
        )
    if not takes_triton(*buffers):
        return adamw_step_reference(param, grad, mean, square, step, rate, settings)
    norm, scalars = prepare_step(grad, step, settings)
    n = param.numel()
    with launch_on(param):
        _update_kernel[(triton.cdiv(n, _BLOCK),)](
            param,
            grad,
            mean,
            square,
            scalars,
            n,
            *update_arguments(rate, settings),
            BLOCK=_BLOCK,
            **COMPILE_OPTIONS,
        )
    return norm
