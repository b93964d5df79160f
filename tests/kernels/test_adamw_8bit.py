"""AdamW with 8-bit moments: the codes of the paper, the steps of bitsandbytes, the losses of fp32."""

import math
from typing import Any

import pytest
import torch

from evenfall.kernels.accuracy import relative_rms_error
from evenfall.kernels.adamw import AdamWSettings, adamw_step, adamw_step_reference
from evenfall.kernels.adamw_8bit import (
    Moments8Bit,
    adamw_8bit_step,
    adamw_8bit_step_reference,
    code_values,
    decode_reference,
    encode_reference,
)

BOTH = pytest.mark.parametrize("function", [adamw_8bit_step, adamw_8bit_step_reference])
AS_GIVEN = AdamWSettings(beta1=0.0, beta2=0.0, max_norm=1e30)
"""The mean is the gradient, the square its square."""


def buffers(device, n):
    """Parameters, gradient, moments, the count of steps."""
    generator = torch.Generator(device).manual_seed(0)
    param = torch.randn(n, generator=generator, device=device)
    return (
        param,
        torch.zeros(n, device=device),
        Moments8Bit.zeros(n, device),
        torch.zeros((), device=device),
    )


def gradient(device, n, number, spread=4.0):
    """Normal values on scales that differ by up to 10^spread."""
    generator = torch.Generator(device).manual_seed(100 + number)
    values = torch.randn(n, generator=generator, device=device)
    return values * 10 ** (-spread * torch.rand(n, generator=generator, device=device))


def copied(state):
    param, grad, moments, step = state
    return (
        param.clone(),
        grad.clone(),
        Moments8Bit(**{name: getattr(moments, name).clone() for name in NAMES}),
        step.clone(),
    )


NAMES = ("mean", "mean_absmax", "mean_values", "square", "square_absmax", "square_values")


def tensors(moments):
    """Codes, absmax and values of the mean, then of the square."""
    return [getattr(moments, name) for name in NAMES]


def scaled(moment):
    """A moment by its block's absmax, float64."""
    blocks = torch.nn.functional.pad(moment.double(), (0, -moment.numel() % 256)).view(-1, 256)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    return (blocks / absmax.clamp(min=1e-300)).flatten()[: moment.numel()]


def nearest(moment, values):
    """Codes by trying all, and whether the second nearest is as near, but for fp32 rounding."""
    x = scaled(moment)[:, None]
    distance, codes = (x - values.double()).abs().topk(2, dim=1, largest=False)
    gap = (values[codes[:, 0]] - values[codes[:, 1]]).abs()
    return codes[:, 0], distance[:, 1] - distance[:, 0] < 1e-4 * gap


def assert_same_moments(one, other, ties=0.002):
    """Equal scales, but for rounding; equal codes, but for ties, which are rare."""
    for codes, absmax in ((0, 1), (3, 4)):
        torch.testing.assert_close(tensors(one)[absmax], tensors(other)[absmax], rtol=1e-5, atol=0)
        differ = (tensors(one)[codes].int() - tensors(other)[codes].int()).abs()
        assert differ.max() <= 1 and (differ > 0).float().mean() <= ties


@pytest.mark.parametrize("signed", [True, False])
def test_code_values_are_those_of_bitsandbytes(signed):
    from bitsandbytes.functional import create_dynamic_map

    values, want = code_values(signed), create_dynamic_map(signed)
    assert len(values) == 256 and bool((values.diff() > 0).all())
    torch.testing.assert_close(values, want, rtol=2e-7, atol=0)


@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        AdamWSettings(max_norm=1e9),
        AdamWSettings(beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1, max_norm=1e9),
    ],
)
def test_single_steps_are_those_of_bitsandbytes_with_codes_to_the_nearest(device, function, settings):
    from bitsandbytes.optim.adamw import AdamW8bit

    n = 1300
    state = param, grad, moments, _ = buffers(device, n)
    stock = torch.nn.Parameter(param.clone())
    optimizer: Any = AdamW8bit(
        [stock],
        lr=1e-2,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        min_8bit_size=1,
    )
    seen = False
    for number in range(5):
        grad.copy_(gradient(device, n, number))
        stock.grad = grad.clone()
        before, clipped = tensors(moments), grad.double().clone()
        mean, square = (
            decode_reference(*before[:3]).double(),
            decode_reference(*before[3:]).double(),
        )
        optimizer.step()
        function(*state, 1e-2, settings)
        theirs = optimizer.state[stock]
        torch.testing.assert_close(param, stock.data, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moments.mean_absmax, theirs["absmax1"], rtol=1e-5, atol=0)
        torch.testing.assert_close(moments.square_absmax, theirs["absmax2"], rtol=1e-5, atol=0)
        # Codes by definition: on a CPU, bitsandbytes finds them in a table with steps of 3e-5.
        mean = settings.beta1 * mean + (1 - settings.beta1) * clipped
        square = settings.beta2 * square + (1 - settings.beta2) * clipped.square()
        codes, tie = nearest(mean, moments.mean_values)
        assert torch.equal(moments.mean[~tie].long(), codes[~tie])
        codes, tie = nearest(square, moments.square_values)
        raised = (codes == 0) & (square > 0)
        assert torch.equal(moments.square[~tie].long(), torch.where(raised, 1, codes)[~tie])
        seen |= bool(raised.any())
        # What differed must not add up.
        stock.data.copy_(param)
        for name, ours in (("1", tensors(moments)[:2]), ("2", tensors(moments)[3:5])):
            theirs["state" + name].copy_(ours[0])
            theirs["absmax" + name].copy_(ours[1])
    assert seen, "no square was small enough to be raised"


@BOTH
def test_codes_are_the_nearest(device, function):
    values = code_values(True)
    middles = (values[1:] + values[:-1]) / 2
    exact = torch.cat([values, middles * (1 + 1e-3), middles * (1 - 1e-3)])
    x = torch.cat([exact, gradient("cpu", 1024, 0, spread=8.0).clamp(-1, 1)])
    x[::256] = 1.0  # so that absmax is 1 in every block
    state = _, grad, moments, _ = buffers(device, len(x))
    grad.copy_(x)
    function(*state, 1e-3, AS_GIVEN)
    codes, tie = nearest(x, values)
    assert torch.equal(moments.mean.cpu().long()[~tie], codes[~tie]) and tie.float().mean() < 0.01
    assert torch.equal(moments.mean_absmax.cpu(), torch.ones(-(-len(x) // 256)))

    square = code_values(False)
    middles = (square[1:] + square[:-1]) / 2
    exact = torch.cat([square, middles * (1 + 1e-3), middles * (1 - 1e-3)])
    roots = torch.cat([exact, gradient("cpu", 1024, 0, spread=8.0).abs().clamp(max=1)]).sqrt()
    roots[::256] = 1.0
    state = _, grad, moments, _ = buffers(device, len(roots))
    grad.copy_(roots)
    function(*state, 1e-3, AS_GIVEN)
    codes, tie = nearest(roots.square(), square)
    codes = codes.clamp(min=1).where(roots > 0, codes)
    assert torch.equal(moments.square.cpu().long()[~tie], codes[~tie])
    assert tie.float().mean() < 0.01 and bool((moments.square[roots.to(device) == 0] == 0).all())


@BOTH
def test_a_square_above_zero_is_never_stored_as_zero(device, function):
    # Squares of 1e-10 of the block's largest, then no gradient: stored as 0, they would leave eps
    # alone below a mean of 9e-7, and move the parameters by thousands of learning rates.
    state = param, grad, moments, _ = buffers(device, 512)
    start = param.clone()
    for value in (1e-5, 0.0, 0.0):
        grad.fill_(value)
        grad[::256] = 1.0
        function(*state, 1.0, AdamWSettings(max_norm=1e9, eps=1e-9))
        assert bool((moments.square > 0).all())
        assert (param - start).abs().max() < 3.1
    grad.zero_()
    grad[3] = 1e-20  # smaller than what fp32 can square
    fresh = buffers(device, 512)
    fresh[1].copy_(grad)
    function(*fresh, 1.0, AdamWSettings())
    assert torch.isfinite(fresh[0]).all()


@BOTH
def test_without_gradients_codes_stay_and_scales_decay(device, function):
    state = _, _, moments, _ = buffers(device, 512)
    every = torch.arange(256, dtype=torch.uint8, device=device).repeat(2)
    for codes, absmax in (
        (moments.mean, moments.mean_absmax),
        (moments.square, moments.square_absmax),
    ):
        codes.copy_(every)
        absmax.copy_(torch.tensor([3.0, 1e-12]))
    for _ in range(3):
        function(*state, 1e-3, AdamWSettings(beta1=0.5, beta2=0.25))
    assert torch.equal(moments.mean, every) and torch.equal(moments.square, every)
    torch.testing.assert_close(moments.mean_absmax.cpu(), torch.tensor([3.0, 1e-12]) / 8)
    torch.testing.assert_close(moments.square_absmax.cpu(), torch.tensor([3.0, 1e-12]) / 64)


@pytest.mark.parametrize("n", [1, 37, 256, 1025, 2304])
@pytest.mark.parametrize(
    "settings",
    [
        AdamWSettings(),
        AdamWSettings(beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1, max_norm=0.3),
        AdamWSettings(beta1=0.0),
    ],
    ids=["usual", "others", "no momentum"],
)
def test_the_reference_is_the_same_step(device, n, settings):
    one = buffers(device, n)
    for number in range(3):
        one[1].copy_(gradient(device, n, number) * 10.0 ** (3 * number - 3))
        two = copied(one)
        norms = [
            function(*state, 1e-2, settings)
            for state, function in ((one, adamw_8bit_step), (two, adamw_8bit_step_reference))
        ]
        torch.testing.assert_close(*norms)
        torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-6)
        assert_same_moments(one[2], two[2])
        assert torch.equal(one[1], two[1]) and not one[1].any() and one[3] == two[3] == number + 1


@BOTH
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e12])
def test_tiny_and_huge_gradients_and_blocks_of_zeros_keep_everything_finite(device, function, scale):
    state = param, grad, moments, _ = buffers(device, 1000)
    start = param.clone()
    for number in range(3):
        grad.copy_(gradient(device, 1000, number) * scale)
        grad[256:512] = 0
        function(*state, 1e-2, AdamWSettings(max_norm=1e30))
    assert all(torch.isfinite(t).all() for t in (param, moments.mean_absmax, moments.square_absmax))
    assert torch.equal(param[256:512], start[256:512])
    assert bool((moments.mean[256:512] == 127).all()) and not moments.square[256:512].any()
    assert moments.mean_absmax[1] == 0 == moments.square_absmax[1]
    for codes, absmax, zero in (
        (moments.mean, moments.mean_absmax, 127),
        (moments.square, moments.square_absmax, 0),
    ):
        of_tiny = (absmax < 1e-37).repeat_interleave(256)[:1000]  # one divided by it is no number
        assert (codes.int() - zero)[of_tiny].abs().max() <= 1
    moved = (param - start).abs().max()
    assert moved < 0.05 and (scale < 1e-10 or moved > 0.02)  # three steps of 0.01, or eps outweighs


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_dropped(device, function, bad):
    state = param, grad, moments, step = buffers(device, 700)
    grad.copy_(gradient(device, 700, 0))
    function(*state, 1e-3, AdamWSettings())
    moments.mean[:256] = 0  # a block without its largest code: encoding it anew would change it
    before = [t.clone() for t in (param, step, *tensors(moments))]
    grad.copy_(gradient(device, 700, 1))
    grad[699] = bad
    norm = function(*state, 1e-3, AdamWSettings())
    assert not math.isfinite(norm.item())
    after = (param, step, *tensors(moments))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(grad, torch.zeros_like(grad))


def test_two_hundred_steps_end_where_fp32_ends(device):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(256, 16, generator=generator)
    # Labels with noise, so that the loss cannot go to 0, where nothing could be compared.
    labels = inputs[:, :8].square().sum(dim=1, keepdim=True).sqrt()
    labels = labels + 0.3 * torch.randn(256, 1, generator=generator)
    shapes = [(48, 16), (48,), (16, 48), (1, 16)]
    sizes = [math.prod(shape) for shape in shapes]

    def final_loss(eight_bit):
        starts = torch.Generator().manual_seed(2)
        param = torch.randn(sum(sizes), generator=starts) * 0.2
        grad, step = torch.zeros_like(param), torch.zeros(())
        moments = Moments8Bit.zeros(sum(sizes), "cpu")
        mean, square = torch.zeros_like(param), torch.zeros_like(param)
        settings = AdamWSettings(weight_decay=0.01)
        late = []
        for number in range(200):
            rows = torch.randint(256, (64,), generator=starts)
            leaf = param.clone().requires_grad_()
            first, bias, second, third = (
                part.view(shape) for part, shape in zip(leaf.split(sizes), shapes, strict=True)
            )
            hidden = torch.tanh(torch.tanh(inputs @ first.t() + bias) @ second.t())
            errors = (hidden @ third.t() - labels).square()
            errors[rows].mean().backward()
            assert leaf.grad is not None
            grad.copy_(leaf.grad)
            if eight_bit:
                adamw_8bit_step_reference(param, grad, moments, step, 1e-2, settings)
            else:
                adamw_step_reference(param, grad, mean, square, step, 1e-2, settings)
            if number >= 180:
                late.append(errors.mean().item())
        return sum(late) / len(late)

    fp32, eight = final_loss(False), final_loss(True)
    assert fp32 < 0.2 and abs(eight / fp32 - 1) < 0.05, (fp32, eight)


def test_a_first_step_is_that_of_fp32(device):
    state = param, grad, moments, _ = buffers(device, 900)
    mean, square = torch.zeros(2, 900, device=device)
    other = param.clone(), gradient(device, 900, 0), mean, square, torch.zeros((), device=device)
    grad.copy_(other[1])
    settings = AdamWSettings(weight_decay=0.1, max_norm=0.7)
    norms = [adamw_8bit_step(*state, 1e-2, settings), adamw_step(*other, 1e-2, settings)]
    assert torch.equal(*norms) and relative_rms_error(param, other[0]) < 1e-7
    decoded = [decode_reference(*tensors(moments)[:3]), decode_reference(*tensors(moments)[3:])]
    assert relative_rms_error(decoded[0], mean) < 0.02
    assert relative_rms_error(decoded[1], square) < 0.01


def test_the_same_input_gives_the_same_bits(device):
    results = []
    for _ in range(2):
        state = buffers(device, 1500)
        state[1].copy_(gradient(device, 1500, 0))
        results.append((adamw_8bit_step(*state, 1e-2, AdamWSettings()), state[0], *tensors(state[2])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_state_takes_a_quarter_of_the_bytes():
    n = 1 << 20
    taken = sum(t.nbytes for t in tensors(Moments8Bit.zeros(n, "cpu")))
    assert taken == 2 * (n + 4 * n // 256 + 1024) and taken < 0.255 * 8 * n


def test_encoding_what_was_decoded_gives_it_back():
    for signed in (True, False):
        values = code_values(signed)
        codes = torch.arange(256, dtype=torch.uint8)
        again, absmax = encode_reference(decode_reference(codes, torch.tensor([0.3]), values), values)
        assert torch.equal(again, codes) and absmax.item() == pytest.approx(0.3)


def test_buffers_that_do_not_fit_are_refused(device):
    param, grad, moments, step = buffers(device, 512)
    for bad in ((param, grad[:256]), (param[:256], grad[:256]), (param.double(), grad)):
        with pytest.raises(ValueError, match="contiguous, of one size and fp32"):
            adamw_8bit_step(*bad, moments, step, 1e-3, AdamWSettings())
    good = tensors(moments)
    for index, wrong in (
        (0, good[0].int()),
        (1, good[1][:1]),
        (4, good[4].double()),
        (5, good[5][1:]),
    ):
        with pytest.raises(ValueError, match="adjacent values of"):
            Moments8Bit(**{**dict(zip(NAMES, good, strict=True)), NAMES[index]: wrong})
