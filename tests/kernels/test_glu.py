"""Gated linear units: numbers, dtypes, strides, memory and edge cases against plain torch."""

import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers.activations import ACT2FN

from evenfall.kernels.accuracy import compare, relative_rms_error
from evenfall.kernels.glu import (
    geglu,
    geglu_reference,
    glu_backward,
    glu_forward,
    swiglu,
    swiglu_reference,
)

# numpy's, in the interpreter
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def geglu_erf(gate, up):
    return geglu(gate, up, tanh=False)


def geglu_erf_reference(gate, up):
    return geglu_reference(gate, up, tanh=False)


# Activation of the raw functions: the public function, its reference, the activation's usual name.
UNITS = {
    "silu": (swiglu, swiglu_reference, "silu"),
    "gelu_tanh": (geglu, geglu_reference, "gelu_pytorch_tanh"),
    "gelu": (geglu_erf, geglu_erf_reference, "gelu"),
}
every_unit = pytest.mark.parametrize("activation", UNITS)


def normal(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def gradients(unit, gate, up, dout):
    gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
    out = unit(gate, up)
    return out.detach(), *torch.autograd.grad(out, (gate, up), dout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (123, 507), (5, 14336)], ids=str)
@every_unit
def test_output_and_gradients_are_as_close_as_eager(device, activation, shape, dtype):
    fast, reference, _ = UNITS[activation]
    operands = {
        "gate": normal(device, *shape, dtype=dtype) * 3,
        "up": normal(device, *shape, dtype=dtype, seed=1),
    }
    generator = torch.Generator(device).manual_seed(2)
    results = compare(fast, reference, operands, generator)
    assert [r.tensor for r in results] == ["out", "grad gate", "grad up"]
    assert all(r.passed for r in results), results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_unit
def test_rounds_where_transformers_does(device, activation, dtype):
    fast, reference, name = UNITS[activation]
    gate, up = normal(device, 40, 300, dtype=dtype), normal(device, 40, 300, dtype=dtype, seed=1)
    want, got = ACT2FN[name](gate) * up, fast(gate, up)
    assert torch.equal(reference(gate, up), want)
    assert dtype == torch.float32 or (got != want).float().mean().item() < 0.01


@every_unit
def test_mixed_dtypes_promote_like_torch(device, activation):
    fast, reference, _ = UNITS[activation]
    gate = normal(device, 5, 24, dtype=torch.float16).requires_grad_()
    up = normal(device, 5, 24, seed=1).requires_grad_()
    out = fast(gate, up)
    torch.testing.assert_close(out, reference(gate, up), rtol=2e-3, atol=1e-6)
    out.sum().backward()
    assert gate.grad is not None and gate.grad.dtype == torch.float16
    assert up.grad is not None and up.grad.dtype == torch.float32


@pytest.mark.parametrize("layout", ["fused", "transposed", "expanded"])
def test_strides_do_not_change_the_numbers(device, layout):
    if layout == "fused":
        gate, up = normal(device, 2, 3, 1400).chunk(2, dim=-1)
    elif layout == "transposed":
        gate, up = normal(device, 50, 6).t(), normal(device, 6, 50, seed=1)
    else:
        gate, up = normal(device, 1, 50).expand(6, 50), normal(device, 6, 50, seed=1)
    dout = normal(device, *reversed(gate.shape), seed=2).permute(*reversed(range(gate.dim())))
    got = gradients(swiglu, gate, up, dout)
    want = gradients(swiglu, gate.contiguous(), up.contiguous(), dout.contiguous())
    assert got[0].shape == gate.shape
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@every_unit
def test_extreme_gates_stay_finite(device, activation):
    fast, reference, _ = UNITS[activation]
    sizes = torch.tensor([[89.0, 200.0, 1e30, 1e38]], device=device)
    gate = torch.cat((-sizes, torch.zeros_like(sizes), sizes), dim=1)
    up = torch.ones_like(gate)
    out, dgate, dup = gradients(fast, gate, up, torch.ones_like(gate))
    torch.testing.assert_close(out, reference(gate, up))
    torch.testing.assert_close(dup, reference(gate, up))
    half = torch.full_like(gate, 0.5)
    torch.testing.assert_close(dgate, torch.heaviside(gate, half))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@every_unit
def test_what_is_not_finite_stays_so(device, activation, value):
    """A diverged run must show: no bound in the kernel may turn NaN or infinity into a number."""
    gate, up = torch.full((1, 8), value, device=device), normal(device, 1, 8).abs()
    out, _, dup = gradients(UNITS[activation][0], gate, up, torch.ones_like(up))
    assert not out.isfinite().any() and not dup.isfinite().any()


def test_left_tail_of_the_approximated_gelu_keeps_its_relative_precision(device):
    """Eager's ``1 + tanh`` has lost half of its digits at -4."""
    gate = torch.linspace(-6, -3, 40, device=device).reshape(2, 20)
    truth = geglu_reference(gate.double(), torch.ones_like(gate).double())
    got = geglu(gate, torch.ones_like(gate))
    assert ((got - truth) / truth).abs().max().item() < 1e-5


@every_unit
def test_no_rows(device, activation):
    gate = torch.zeros(0, 8, device=device, requires_grad=True)
    up = torch.zeros(0, 8, device=device, requires_grad=True)
    out = UNITS[activation][0](gate, up)
    out.sum().backward()
    assert out.shape == (0, 8)
    assert gate.grad is not None and gate.grad.shape == (0, 8)
    empty = torch.zeros(0, 8, device=device)
    glu_forward(empty, empty, empty, activation)
    glu_backward(empty, empty, empty, empty, empty, activation, out=empty)


def test_saves_its_operands_and_nothing_else(device):
    gate, up = normal(device, 30, 64).requires_grad_(), normal(device, 30, 64, seed=1)
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        geglu(gate, up)
    assert set(saved) == {gate.data_ptr(), up.data_ptr()}


@every_unit
def test_backward_leaves_the_operands_alone(device, activation):
    gate, up, dout = (normal(device, 4, 50, seed=seed) for seed in range(3))
    before = [t.clone() for t in (gate, up, dout)]
    gradients(UNITS[activation][0], gate, up, dout)
    assert all(torch.equal(a, b) for a, b in zip((gate, up, dout), before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [24, 1100])
@every_unit
def test_raw_backward_works_in_place_in_slices_of_a_wider_buffer(device, activation, columns, dtype):
    """The layout of a fused projection with room for an adapter behind it, gradients and the
    product written over what they came from."""
    rows, tail = 7, 16
    fused = normal(device, rows, 2 * columns + tail, dtype=dtype)
    dout = normal(device, rows, columns + tail, dtype=dtype, seed=1)
    gate, up = fused[:, :columns], fused[:, columns : 2 * columns]
    want = gradients(UNITS[activation][0], gate, up, dout[:, :columns])
    tails = fused[:, 2 * columns :].clone(), dout[:, columns:].clone()

    grad = dout[:, :columns]
    glu_backward(grad, gate, up, gate, up, activation, out=grad)
    for got, expected in zip((grad, gate, up), want, strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(fused[:, 2 * columns :], tails[0])
    assert torch.equal(dout[:, columns:], tails[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_unit
def test_raw_functions_write_the_same_product(device, activation, dtype):
    gate, up, dout = (normal(device, 30, 530, dtype=dtype, seed=seed) * 3 for seed in range(3))
    buffer = torch.empty((30, 600), dtype=dtype, device=device)
    glu_forward(gate, up, buffer[:, :530], activation)
    assert buffer[:, 530:].isnan().all()
    out, dgate, dup = (torch.empty((30, 530), dtype=dtype, device=device) for _ in range(3))
    glu_backward(dout, gate, up, dgate, dup, activation, out=out)
    assert torch.equal(out, buffer[:, :530])
    assert torch.equal(out, UNITS[activation][0](gate, up))
    without = torch.empty_like(dgate), torch.empty_like(dup)
    glu_backward(dout, gate, up, *without, activation)
    assert torch.equal(without[0], dgate) and torch.equal(without[1], dup)


def test_approximated_and_exact_gelu_are_told_apart(device):
    gate, up = normal(device, 20, 64) * 2, torch.ones(20, 64, device=device)
    difference = relative_rms_error(geglu(gate, up), geglu(gate, up, tanh=False))
    assert 1e-5 < difference < 1e-3


def test_different_shapes_are_refused(device):
    for name, unit in (("swiglu", swiglu), ("geglu", geglu)):
        with pytest.raises(ValueError, match=name + r".*gate is \(3, 8\), up is \(3, 1\)"):
            unit(torch.ones(3, 8, device=device), torch.ones(3, 1, device=device))
