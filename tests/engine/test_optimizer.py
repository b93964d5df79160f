"""The flat optimiser: the parameters stay the model's own, and a step is AdamW's."""

import pytest
import torch

from evenfall.engine.optimizer import FlatAdamW
from evenfall.kernels.adamw import AdamWSettings


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


def flat(net, **settings):
    return FlatAdamW(dict(net.named_parameters()), AdamWSettings(**settings))


def backward(net, seed):
    generator = torch.Generator().manual_seed(seed)
    net(torch.randn(4, 5, generator=generator)).square().mean().backward()


def test_taking_parameters_in_keeps_their_values_and_the_model_works_on():
    net, same = model(), model()
    optimizer = flat(net)
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


def test_dropped_gradients_are_gone():
    net, stock = model(), model()
    optimizer, other = flat(net), flat(stock)
    backward(net, 0)
    optimizer.zero_grad()
    for one, own in ((net, optimizer), (stock, other)):
        backward(one, 1)
        own.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), stock.parameters(), strict=True))


def test_moments_taken_over_go_on_as_if_nothing_had_been():
    net = model()
    optimizer = flat(net)
    for number in range(3):
        backward(net, number)
        optimizer.step(1e-2)
    fresh = model()
    fresh.load_state_dict(net.state_dict())
    resumed = flat(fresh)
    assert resumed.moments().keys() == optimizer.moments().keys()
    assert {"step", "exp_avg/0.weight", "exp_avg_sq/2.bias"} <= resumed.moments().keys()
    for name, value in resumed.moments().items():
        value.copy_(optimizer.moments()[name])
    for one, own in ((net, optimizer), (fresh, resumed)):
        backward(one, 9)
        own.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_gradient_changes_nothing(value):
    net = model()
    optimizer = flat(net)
    before = [parameter.clone() for parameter in net.parameters()]
    backward(net, 0)
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    grads[0][0, 0] = value
    assert not torch.isfinite(optimizer.step(1e-2))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert len(grads) == 4 and not any(grad.any() for grad in grads)
