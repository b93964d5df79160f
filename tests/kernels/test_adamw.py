"""Flat AdamW against torch's, step by step."""

import math

import pytest
import torch

from evenfall.kernels.accuracy import relative_rms_error
from evenfall.kernels.adamw import AdamWSettings, adamw_step, adamw_step_reference


def buffers(device, n):
    """Parameters, gradient, both moments, the count of steps."""
    generator = torch.Generator(device).manual_seed(0)
    param = torch.randn(n, generator=generator, device=device)
    grad, mean, square = (torch.zeros(n, device=device) for _ in range(3))
    return param, grad, mean, square, torch.zeros((), device=device)


def gradient(device, n, number, scale=1.0):
    generator = torch.Generator(device).manual_seed(100 + number)
    return torch.randn(n, generator=generator, device=device) * scale


@pytest.mark.parametrize("n", [1, 37, 2048, 5001])
@pytest.mark.parametrize(
    "settings",
    [
        AdamWSettings(),
        AdamWSettings(beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1, max_norm=0.3),
        AdamWSettings(beta1=0.0, weight_decay=0.01, max_norm=1e9),
    ],
    ids=["usual", "others", "no momentum, no clip"],
)
def test_it_goes_where_torchs_adamw_and_clip_go(device, n, settings):
    param, grad, mean, square, step = buffers(device, n)
    stock = torch.nn.Parameter(param.detach().double())
    optimizer = torch.optim.AdamW(
        [stock],
        lr=1.0,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    for number in range(6):
        grad.copy_(gradient(device, n, number, scale=10.0 ** (number - 3)))
        rate = 1e-2 / (number + 1)
        stock.grad = grad.double()
        want = torch.nn.utils.clip_grad_norm_([stock], settings.max_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        norm = adamw_step(param, grad, mean, square, step, rate, settings)
        assert math.isclose(norm.item(), want.item(), rel_tol=1e-6)
        assert relative_rms_error(param, stock.detach()) < 1e-6
        assert grad.abs().sum() == 0 and step.item() == number + 1
    state = optimizer.state[stock]
    assert relative_rms_error(mean, state["exp_avg"]) < 1e-6
    assert relative_rms_error(square, state["exp_avg_sq"]) < 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("function", [adamw_step, adamw_step_reference])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_dropped(device, function, bad):
    param, grad, mean, square, step = state = buffers(device, 3000)
    grad.copy_(gradient(device, 3000, 0))
    function(*state, 1e-3, AdamWSettings())
    before = [t.clone() for t in (param, mean, square, step)]
    grad.copy_(gradient(device, 3000, 1))
    grad[2999] = bad
    norm = function(*state, 1e-3, AdamWSettings())
    assert not math.isfinite(norm.item())
    assert all(torch.equal(a, b) for a, b in zip(before, (param, mean, square, step), strict=True))
    assert torch.equal(grad, torch.zeros_like(grad))


def test_small_first_steps_keep_their_digits(device):
    # 1 - beta2^t in fp32 would be wrong by 6e-5 at the first step.
    param, grad, mean, square, step = buffers(device, 64)
    start = param.double()
    grad.fill_(1e-4)
    adamw_step(param, grad, mean, square, step, 1.0, AdamWSettings(max_norm=1e9, eps=0.0))
    assert relative_rms_error(start - param, torch.ones_like(start)) < 1e-6


def test_the_reference_is_the_same_step(device):
    one, two = buffers(device, 777), buffers(device, 777)
    settings = AdamWSettings(weight_decay=0.05, max_norm=0.5)
    for number in range(3):
        for state, function in ((one, adamw_step), (two, adamw_step_reference)):
            state[1].copy_(gradient(device, 777, number))
            function(*state, 1e-2, settings)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(one, two, strict=True))


def test_the_same_input_gives_the_same_bits(device):
    results = []
    for _ in range(2):
        state = buffers(device, 9001)
        state[1].copy_(gradient(device, 9001, 0))
        results.append((adamw_step(*state, 1e-2, AdamWSettings()), state[0]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_buffers_that_do_not_fit_are_refused(device):
    param, grad, mean, square, step = buffers(device, 8)
    with pytest.raises(ValueError, match="contiguous and of one size"):
        adamw_step(param, grad[:4], mean, square, step, 1e-3, AdamWSettings())
    with pytest.raises(ValueError, match="contiguous and of one size"):
        adamw_step(param[::2], grad[::2], mean[::2], square[::2], step, 1e-3, AdamWSettings())
