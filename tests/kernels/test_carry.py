"""Copying rows and multiplying an adapter on the way."""

import pytest
import torch

from evenfall.kernels.accuracy import relative_rms_error
from evenfall.kernels.carry import MAX_EXTRA, copy_carry

SHAPES = [(1, 1), (3, 8), (37, 131), (70, 300)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def operands(device, tokens, columns, extra, dtype):
    generator = torch.Generator(device).manual_seed(0)
    source = torch.randn(tokens, columns + 5, generator=generator, device=device).to(dtype)
    rows = torch.randn(extra, columns + 3, generator=generator, device=device).to(dtype)
    buffer = torch.full((tokens, columns + extra + 2), 7.0, device=device, dtype=dtype)
    return source[:, :columns], rows[:, :columns], buffer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extra", [16, 48, MAX_EXTRA, MAX_EXTRA + 16])
@pytest.mark.parametrize(("tokens", "columns"), SHAPES)
def test_the_copy_is_exact_and_what_it_carries_as_good_as_a_matmul(device, tokens, columns, extra, dtype):
    source, rows, buffer = operands(device, tokens, columns, extra, dtype)
    target, carried = buffer[:, :columns], buffer[:, columns : columns + extra]
    copy_carry(source, target, rows, carried)
    assert torch.equal(target, source)
    exact = source.double() @ rows.double().t()
    eager = relative_rms_error(torch.mm(source, rows.t()), exact)
    assert relative_rms_error(carried, exact) <= 1.05 * eager + torch.finfo(dtype).eps / 2
    assert (buffer[:, columns + extra :] == 7.0).all()  # nothing beyond its columns is written


def test_without_columns_to_carry_it_is_a_copy(device):
    source, rows, buffer = operands(device, 5, 20, 0, torch.bfloat16)
    copy_carry(source, buffer[:, :20], rows, buffer[:, 20:20])
    assert torch.equal(buffer[:, :20], source) and (buffer[:, 20:] == 7.0).all()
