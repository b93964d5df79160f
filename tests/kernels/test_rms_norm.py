"""RMSNorm: numbers, dtypes, strides and edge cases against plain torch and against transformers."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from evenfall.kernels.accuracy import compare
from evenfall.kernels.rms_norm import (
    MAX_COLUMNS,
    add_rms_norm,
    rms_norm,
    rms_norm_backward,
    rms_norm_forward,
    rms_norm_reference,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EPS = 1e-6


def normal(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def gradients(x, weight, dout, **kwargs):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    out = rms_norm(x, weight, EPS, **kwargs)
    return out.detach(), *torch.autograd.grad(out, (x, weight), dout)


@pytest.mark.parametrize("unit_offset", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 3), (3, 8), (123, 507), (300, 128), (9, 4096)], ids=str)
def test_output_and_gradients_are_as_close_as_eager(device, shape, dtype, unit_offset):
    def fast(x, weight):
        return rms_norm(x, weight, EPS, unit_offset=unit_offset)

    def eager(x, weight):
        return rms_norm_reference(x, weight, EPS, unit_offset=unit_offset)

    operands = {
        "x": normal(device, *shape, dtype=dtype) * 3,
        "weight": normal(device, shape[1], dtype=dtype, seed=1),
    }
    results = compare(fast, eager, operands, torch.Generator(device).manual_seed(2))
    assert [r.tensor for r in results] == ["out", "grad x", "grad weight"]
    assert all(r.passed for r in results), results


@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_reference_and_kernel_round_where_transformers_does(device, family, dtype, weight_dtype):
    if family == "llama":
        from transformers.models.llama.modeling_llama import LlamaRMSNorm as Norm
    else:
        from transformers.models.gemma.modeling_gemma import GemmaRMSNorm as Norm
    stock = Norm(96, eps=1e-5).to(device)
    stock.weight = torch.nn.Parameter(normal(device, 96, dtype=weight_dtype))
    x = normal(device, 7, 96, dtype=dtype, seed=1)
    want = stock(x)
    kwargs = {"unit_offset": family == "gemma"}
    reference = rms_norm_reference(x, stock.weight, 1e-5, **kwargs)
    assert reference.dtype == want.dtype and torch.equal(reference, want)
    got = rms_norm(x, stock.weight, 1e-5, **kwargs)
    assert got.dtype == want.dtype
    # A last bit of fp32 may differ, and then, rarely, a rounding to 16 bits.
    differing = (got != want).float().mean().item()
    rounding = torch.finfo(want.dtype).eps
    torch.testing.assert_close(got, want, rtol=2 * max(rounding, 2**-20), atol=1e-7)
    assert want.dtype == torch.float32 or differing < 0.01


def test_mixed_dtypes_give_each_gradient_its_operand_dtype(device):
    x = normal(device, 5, 24, dtype=torch.float16).requires_grad_()
    weight = normal(device, 24, seed=1).requires_grad_()
    out = rms_norm(x, weight, EPS)
    out.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float16
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("layout", ["slice", "transposed", "expanded", "permuted heads"])
def test_strides_do_not_change_the_numbers(device, layout):
    if layout == "slice":
        x = normal(device, 6, 100)[:, 10:60]
    elif layout == "transposed":
        x = normal(device, 50, 6).t()
    elif layout == "expanded":
        x = normal(device, 1, 50).expand(6, 50)
    else:
        x = normal(device, 2, 3, 4, 50).transpose(1, 2)
    weight = normal(device, 50, seed=1)
    dout = normal(device, *reversed(x.shape), seed=2).permute(*reversed(range(x.dim())))
    got = gradients(x, weight, dout)
    want = gradients(x.contiguous(), weight, dout.contiguous())
    assert got[0].shape == x.shape
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_column_strides_of_the_weight_are_respected(device):
    weight = normal(device, 40, 2)[:, 1]
    x = normal(device, 4, 40, seed=1)
    assert torch.equal(rms_norm(x, weight, EPS), rms_norm(x, weight.contiguous(), EPS))


def test_no_rows(device):
    x = torch.zeros(2, 0, 8, device=device, requires_grad=True)
    weight = torch.ones(8, device=device, requires_grad=True)
    out = rms_norm(x, weight, EPS)
    out.sum().backward()
    assert out.shape == (2, 0, 8)
    assert x.grad is not None and x.grad.shape == (2, 0, 8)
    assert weight.grad is not None and torch.equal(weight.grad, torch.zeros_like(weight))


def test_frozen_weight_gets_no_gradient_and_x_the_same_one(device):
    x, weight = normal(device, 40, 64), normal(device, 64, seed=1)
    dout = normal(device, 40, 64, seed=2)
    _, want, _ = gradients(x, weight, dout)
    x.requires_grad_()
    rms_norm(x, weight, EPS).backward(dout)
    assert x.grad is not None and torch.equal(x.grad, want)
    assert weight.grad is None


def test_weight_alone_can_be_trained(device):
    x, weight = normal(device, 40, 64), normal(device, 64, seed=1)
    dout = normal(device, 40, 64, seed=2)
    _, _, want = gradients(x, weight, dout)
    weight.requires_grad_()
    rms_norm(x, weight, EPS).backward(dout)
    assert weight.grad is not None and torch.equal(weight.grad, want)


def test_weight_gradient_is_the_same_every_time(device):
    x, weight = normal(device, 1000, 16), normal(device, 16, seed=1)
    dout = normal(device, 1000, 16, seed=2)
    runs = [gradients(x, weight, dout)[2] for _ in range(3)]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_only_x_and_one_number_a_row_are_saved(device):
    x = normal(device, 30, 64, dtype=torch.float16).requires_grad_()
    weight = normal(device, 64, dtype=torch.float16)
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        rms_norm(x, weight, EPS)
    new = [t for t in saved if t.data_ptr() not in (x.data_ptr(), weight.data_ptr())]
    assert sum(t.numel() for t in new) == 30


def test_other_sizes_and_dtypes_take_the_reference(device):
    wide, double = normal(device, 2, MAX_COLUMNS + 1), normal(device, 3, 8).double()
    for x in (wide, double):
        weight = torch.full_like(x[0], 1.5)
        assert torch.equal(rms_norm(x, weight, EPS), rms_norm_reference(x, weight, EPS))


def test_second_derivatives_are_refused_not_wrong(device):
    x = normal(device, 3, 8).requires_grad_()
    out = rms_norm(x, torch.ones(8, device=device), EPS)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_weight_of_another_length_is_refused(device):
    with pytest.raises(ValueError, match=r"x is \(3, 8\), weight is \(7,\)"):
        rms_norm(torch.ones(3, 8, device=device), torch.ones(7, device=device), EPS)


@pytest.mark.parametrize("unit_offset", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 3), (3, 8), (123, 507), (300, 128), (9, 4096)], ids=str)
def test_sum_and_norm_in_one_pass_are_as_close_as_eager(device, shape, dtype, unit_offset):
    def fast(x, residual, weight):
        return torch.cat(add_rms_norm(x, residual, weight, EPS, unit_offset=unit_offset), dim=-1)

    def eager(x, residual, weight):
        total = x + residual
        return torch.cat([rms_norm_reference(total, weight, EPS, unit_offset=unit_offset), total], dim=-1)

    operands = {
        "x": normal(device, *shape, dtype=dtype) * 3,
        "residual": normal(device, *shape, dtype=dtype, seed=3),
        "weight": normal(device, shape[1], dtype=dtype, seed=1),
    }
    results = compare(fast, eager, operands, torch.Generator(device).manual_seed(2))
    assert [r.tensor for r in results] == ["out", "grad x", "grad residual", "grad weight"]
    assert all(r.passed for r in results), results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_stream_is_rounded_as_eager_rounds_it_and_normed_after_that(device, dtype):
    x = normal(device, 2, 20, 96, dtype=dtype)
    residual = normal(device, 2, 96, 20, dtype=dtype, seed=1).transpose(1, 2)
    weight = normal(device, 96, dtype=dtype, seed=2)
    out, total = add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    assert torch.equal(out, rms_norm(x + residual, weight, EPS))


def test_both_summands_get_one_gradient_and_a_frozen_weight_none(device):
    x = normal(device, 40, 64).requires_grad_()
    residual = normal(device, 40, 64, seed=1).requires_grad_()
    weight = normal(device, 64, seed=2)
    out, total = add_rms_norm(x, residual, weight, EPS)
    (out * total).sum().backward()
    assert x.grad is not None and residual.grad is not None and weight.grad is None
    assert torch.equal(x.grad, residual.grad) and x.grad is not residual.grad


def test_an_unused_stream_gives_no_gradient_of_its_own(device):
    x, residual = (normal(device, 40, 64, seed=n).requires_grad_() for n in (0, 1))
    weight = normal(device, 64, seed=2)
    out, _ = add_rms_norm(x, residual, weight, EPS)
    dout = normal(device, 40, 64, seed=3)
    out.backward(dout)
    _, want, _ = gradients(x.detach() + residual.detach(), weight, dout)
    assert x.grad is not None and torch.equal(x.grad, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_raw_passes_write_into_a_wider_buffer_and_nothing_beside_it(device, dtype):
    x, residual, dout, dtotal = (normal(device, 7, 48, dtype=dtype, seed=n) for n in range(4))
    weight = normal(device, 48, dtype=dtype, seed=4)
    buffer = torch.full((7, 64), 5.0, dtype=dtype, device=device)
    total = torch.empty_like(x)
    rstd = rms_norm_forward(x, weight, EPS, buffer[:, :48], residual=residual, total=total)
    wide = torch.full((7, 60), 9.0, dtype=dtype, device=device)
    wide[:, :48] = dout
    dx, dweight = rms_norm_backward(wide[:, :48], total, weight, rstd, dtotal=dtotal, dx=wide[:, :48], weight_grad=True)
    leaf, scale = (x + residual).requires_grad_(), weight.clone().requires_grad_()
    want = rms_norm_reference(leaf, scale, EPS)
    torch.autograd.backward([want, leaf], [dout, dtotal])
    torch.testing.assert_close(buffer[:, :48], want.detach())
    assert (buffer[:, 48:] == 5.0).all()
    torch.testing.assert_close(wide[:, :48], leaf.grad)
    assert (wide[:, 48:] == 9.0).all() and dx.data_ptr() == wide.data_ptr()
    torch.testing.assert_close(dweight, scale.grad)


def test_summands_that_differ_are_refused(device):
    x, weight = normal(device, 3, 8), normal(device, 8)
    with pytest.raises(ValueError, match=r"x and residual must be alike; x is \(3, 8\)"):
        add_rms_norm(x, normal(device, 4, 8), weight, EPS)
    with pytest.raises(ValueError, match=r"torch\.float16"):
        add_rms_norm(x, x.half(), weight, EPS)
    with pytest.raises(ValueError, match="add_rms_norm: weight must have the shape"):
        add_rms_norm(x, x, normal(device, 7), EPS)
