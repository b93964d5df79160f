"""The flat optimiser: the parameters stay the model's own, and a step is AdamW's."""

from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from evenfall.engine.config.run_config import Optim
from evenfall.engine.training.optimizer import FlatAdamW
from evenfall.kernels.adamw import AdamWSettings

EITHER = pytest.mark.parametrize("optim", get_args(Optim))


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


def flat(net, optim: Optim = "adamw_torch", **settings):
    return FlatAdamW(dict(net.named_parameters()), AdamWSettings(**settings), optim)


def backward(net, seed):
    generator = torch.Generator().manual_seed(seed)
    net(torch.randn(4, 5, generator=generator)).square().mean().backward()


@EITHER
def test_taking_parameters_in_keeps_their_values_and_the_model_works_on(optim):
    net, same = model(), model()
    optimizer = flat(net, optim)
    for one, other in zip(net.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other) and one.grad is not None and not one.grad.any()
    optimizer.step(1e-2)
    x = torch.randn(2, 5)
    assert torch.equal(net(x), same(x))  # a gradient of zero, no decay


def test_steps_with_accumulation_are_torchs():
    net, stock = model(), model()
    optimizer = flat(net, weight_decay=0.1, max_norm=0.05)
    reference = torch.optim.AdamW(stock.parameters(), lr=0.0, weight_decay=0.1)
    for number in range(5):
        for micro in range(3):
            backward(net, 10 * number + micro)
            backward(stock, 10 * number + micro)
        want = torch.nn.utils.clip_grad_norm_(stock.parameters(), 0.05)
        reference.param_groups[0]["lr"] = 1e-2 / (number + 1)
        reference.step()
        reference.zero_grad()
        torch.testing.assert_close(optimizer.step(1e-2 / (number + 1)), want)
    for one, other in zip(net.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)


@EITHER
def test_summed_losses_are_divided_before_the_clip(optim):
    nets, norms = (model(), model()), []
    for net, divisor in zip(nets, (1.0, 64.0), strict=True):
        optimizer = flat(net, optim, max_norm=0.05)
        backward(net, 0)
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(divisor)
        norms.append(optimizer.step(1e-2, divisor=divisor))
    assert torch.equal(*norms)
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in nets), strict=True))


@EITHER
def test_dropped_gradients_are_gone(optim):
    net, stock = model(), model()
    optimizer, other = flat(net, optim), flat(stock, optim)
    backward(net, 0)
    optimizer.zero_grad()
    for one, own in ((net, optimizer), (stock, other)):
        backward(one, 1)
        own.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), stock.parameters(), strict=True))


@EITHER
def test_moments_taken_over_go_on_as_if_nothing_had_been(optim, tmp_path):
    net = model()
    optimizer = flat(net, optim)
    for number in range(3):
        backward(net, number)
        optimizer.step(1e-2)
    save_file(optimizer.moments(), str(tmp_path / "optimizer.safetensors"))
    fresh = model()
    fresh.load_state_dict(net.state_dict())
    resumed = flat(fresh, optim)
    saved = load_file(str(tmp_path / "optimizer.safetensors"))
    assert resumed.moments().keys() == saved.keys()
    names = {
        "adamw_torch": {"step", "exp_avg/0.weight", "exp_avg_sq/2.bias"},
        "adamw_8bit": {"step", "exp_avg.codes/0.weight", "exp_avg_sq.absmax/2.bias"},
    }
    assert names[optim] <= saved.keys()
    for name, value in resumed.moments().items():
        value.copy_(saved[name])
    for number in range(3, 6):
        for one, own in ((net, optimizer), (fresh, resumed)):
            backward(one, number)
            own.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), fresh.parameters(), strict=True))
    after = resumed.moments()
    assert all(torch.equal(value, after[name]) for name, value in optimizer.moments().items())


def test_moments_in_8_bits_are_not_taken_for_fp32_nor_fp32_for_them():
    fp32, eight = (set(flat(model(), optim).moments()) for optim in get_args(Optim))
    assert eight & fp32 == {"step"}


def test_8_bit_steps_stay_near_fp32_and_no_parameter_rounds_on_the_scale_of_another():
    net, stock = model(), model()
    optimizer, reference = flat(net, "adamw_8bit"), flat(stock)
    for number in range(20):
        for one, own in ((net, optimizer), (stock, reference)):
            backward(one, number)
            grads = [p.grad for p in one.parameters() if p.grad is not None]
            assert len(grads) == 4
            grads[0].mul_(1e-6)  # in a block with the others, its squares would all be the same code
            own.step(1e-3)
    start = model()
    for one, other, before in zip(*(n.parameters() for n in (net, stock, start)), strict=True):
        moved, want = one - before, other - before
        assert torch.linalg.vector_norm(moved - want) < 0.05 * torch.linalg.vector_norm(want)


def test_the_8_bit_moments_of_an_8b_model_take_a_quarter_and_nothing_is_padded():
    sizes = {"q": (4096, 4096), "k": (1024, 4096), "gate": (14336, 4096), "down": (4096, 14336)}
    matrices = {}
    for name, (rows, columns) in sizes.items():
        for half, shape in (("A", (16, columns)), ("B", (rows, 16))):
            matrices[name + half] = torch.nn.Parameter(torch.empty(shape, device="meta"))
    count = sum(parameter.numel() for parameter in matrices.values())
    held = {}
    for optim in get_args(Optim):
        moments = FlatAdamW(dict(matrices), AdamWSettings(), optim).moments()
        buffers = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in moments.values()}
        held[optim] = sum(buffers.values())
    assert held["adamw_torch"] == 8 * count + 4
    assert held["adamw_8bit"] == 2 * count + 2 * 4 * count // 256 + 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@EITHER
def test_a_bad_gradient_changes_nothing(value, optim):
    net = model()
    optimizer = flat(net, optim)
    before = [parameter.clone() for parameter in net.parameters()]
    backward(net, 0)
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    grads[0][0, 0] = value
    assert not torch.isfinite(optimizer.step(1e-2))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert len(grads) == 4 and not any(grad.any() for grad in grads)
