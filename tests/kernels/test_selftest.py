"""The self-test that `evenfall doctor` runs: it passes on right kernels and names wrong ones."""

import math

import pytest
import torch

from evenfall.kernels import selftest
from evenfall.kernels.accuracy import compare, relative_rms_error

SMALL = {"shapes": ((3, 8), (40, 70)), "dtypes": (torch.float32, torch.bfloat16)}


def test_every_tensor_of_every_op_is_judged_and_passes(device):
    results = selftest.run_selftest(device, **SMALL)
    assert len(results) == len(selftest.OPS) * 2 * 2 * 3
    assert {(r.op, r.dtype) for r in results} == {
        (op, dtype) for op in selftest.OPS for dtype in ("float32", "bfloat16")
    }
    assert all(r.passed and r.error >= 0 and r.eager_error >= 0 for r in results), results


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slightly_wrong_kernel_fails(device, monkeypatch, dtype):
    right = selftest.OPS["swiglu"]

    def wrong(gate, up):
        return gate * torch.sigmoid(1.02 * gate) * up

    op = selftest.Op(wrong, right.reference, right.operands)
    monkeypatch.setitem(selftest.OPS, "swiglu", op)
    results = selftest.run_selftest(device, shapes=((40, 70),), dtypes=(getattr(torch, dtype),))
    verdicts = {(r.op, r.tensor): r.passed for r in results}
    assert not verdicts["swiglu", "out"] and not verdicts["swiglu", "grad gate"]
    assert verdicts["rms_norm", "out"]


def test_kernel_that_does_not_compile_is_reported_not_raised(device, monkeypatch):
    right = selftest.OPS["swiglu"]

    def broken(gate, up):
        raise RuntimeError("no such instruction")

    op = selftest.Op(broken, right.reference, right.operands)
    monkeypatch.setitem(selftest.OPS, "swiglu", op)
    results = selftest.run_selftest(device, **SMALL)
    failed = [r for r in results if not r.passed]
    assert {r.op for r in failed} == {"swiglu"} and len(failed) == 4
    assert failed[0].problem == "RuntimeError: no such instruction"


def test_global_random_state_is_left_alone(device):
    before = torch.get_rng_state()
    selftest.run_selftest(device, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_says_so_where_no_kernel_runs(monkeypatch):
    monkeypatch.setattr(selftest, "triton_runs_on", lambda device: False)
    with pytest.raises(RuntimeError, match="no Triton kernels run on cpu"):
        selftest.run_selftest("cpu")


def test_wrong_gradient_behind_a_right_output_is_found():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x * weight

        @staticmethod
        def backward(ctx, dout):  # pyright: ignore[reportIncompatibleMethodOverride]
            x, weight = ctx.saved_tensors
            return dout * weight, (dout * x).sum(0) * 1.001

    def eager(x, weight):
        return x * weight

    generator = torch.Generator().manual_seed(0)
    operands = {"x": torch.randn(50, 9, generator=generator), "weight": torch.linspace(1, 2, 9)}
    results = compare(lambda x, weight: Wrong.apply(x, weight), eager, operands, generator)
    assert [r.passed for r in results] == [True, True, False]
    assert results[2].error == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("name", ["rms_norm", "rope", "rope (interleaved)"])
def test_judging_in_chunks_gives_the_same_errors(monkeypatch, name):
    from evenfall.kernels import accuracy

    op = selftest.OPS[name]
    shape, dtype = (50, 16), torch.float16
    operands = selftest.random_operands(op, shape, dtype, torch.Generator().manual_seed(0))

    def errors():
        results = compare(op.reference, op.reference, operands, torch.Generator().manual_seed(1))
        return [r.error for r in results]

    whole = errors()
    monkeypatch.setattr(accuracy, "_CHUNK", 16 * 7)
    assert errors() == pytest.approx(whole, rel=1e-6) and min(whole) > 0


def test_relative_rms_error_is_relative_to_the_truth():
    truth = torch.tensor([3.0, 4.0])
    assert relative_rms_error(truth * 1.5, truth) == pytest.approx(0.5)
    assert relative_rms_error(torch.tensor([3.0, math.nan]), truth) == math.inf
