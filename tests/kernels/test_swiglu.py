"""SwiGLU: numbers, dtypes, strides and edge cases against plain torch."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from evenfall.kernels.accuracy import compare
from evenfall.kernels.swiglu import swiglu, swiglu_reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def normal(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def gradients(gate, up, dout):
    gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
    out = swiglu(gate, up)
    return out.detach(), *torch.autograd.grad(out, (gate, up), dout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (123, 507), (5, 14336)], ids=str)
def test_output_and_gradients_are_as_close_as_eager(device, shape, dtype):
    operands = {
        "gate": normal(device, *shape, dtype=dtype) * 3,
        "up": normal(device, *shape, dtype=dtype, seed=1),
    }
    generator = torch.Generator(device).manual_seed(2)
    results = compare(swiglu, swiglu_reference, operands, generator)
    assert [r.tensor for r in results] == ["out", "grad gate", "grad up"]
    assert all(r.passed for r in results), results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounds_where_eager_does(device, dtype):
    gate, up = normal(device, 40, 300, dtype=dtype), normal(device, 40, 300, dtype=dtype, seed=1)
    want, got = torch.nn.functional.silu(gate) * up, swiglu(gate, up)
    assert torch.equal(swiglu_reference(gate, up), want)
    assert dtype == torch.float32 or (got != want).float().mean().item() < 0.01


def test_mixed_dtypes_promote_like_torch(device):
    gate = normal(device, 5, 24, dtype=torch.float16).requires_grad_()
    up = normal(device, 5, 24, seed=1).requires_grad_()
    out = swiglu(gate, up)
    torch.testing.assert_close(out, swiglu_reference(gate, up))
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
    got = gradients(gate, up, dout)
    want = gradients(gate.contiguous(), up.contiguous(), dout.contiguous())
    assert got[0].shape == gate.shape
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, in the interpreter
def test_extreme_gates_stay_finite(device):
    gate = torch.tensor([[-1e30, -200.0, -89.0, 0.0, 89.0, 200.0, 1e30]], device=device)
    up = torch.ones_like(gate)
    out, dgate, dup = gradients(gate, up, torch.ones_like(gate))
    torch.testing.assert_close(out, swiglu_reference(gate, up))
    torch.testing.assert_close(dup, swiglu_reference(gate, up))
    torch.testing.assert_close(dgate[0, [0, 1, 3, 5, 6]].cpu(), torch.tensor([0, 0, 0.5, 1, 1]))


def test_no_rows(device):
    gate = torch.zeros(0, 8, device=device, requires_grad=True)
    up = torch.zeros(0, 8, device=device, requires_grad=True)
    out = swiglu(gate, up)
    out.sum().backward()
    assert out.shape == (0, 8)
    assert gate.grad is not None and gate.grad.shape == (0, 8)


def test_saves_its_operands_and_nothing_else(device):
    gate, up = normal(device, 30, 64).requires_grad_(), normal(device, 30, 64, seed=1)
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        swiglu(gate, up)
    assert set(saved) == {gate.data_ptr(), up.data_ptr()}


def test_backward_leaves_the_operands_alone(device):
    gate, up, dout = (normal(device, 4, 50, seed=seed) for seed in range(3))
    before = [t.clone() for t in (gate, up, dout)]
    gradients(gate, up, dout)
    assert all(torch.equal(a, b) for a, b in zip((gate, up, dout), before, strict=True))


def test_different_shapes_are_refused(device):
    with pytest.raises(ValueError, match=r"gate is \(3, 8\), up is \(3, 1\)"):
        swiglu(torch.ones(3, 8, device=device), torch.ones(3, 1, device=device))
