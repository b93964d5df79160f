"""Products on any device, and how operands are laid out."""

import pytest
import torch

from evenfall.kernels.matmul import aligned, matmul, matmul_fp32, row_bytes


@pytest.mark.parametrize("transposed", [True, False])
def test_a_matmul_is_torchs_where_nothing_was_chosen(device, transposed):
    a = torch.randn(5, 7, device=device)
    b = torch.randn(3, 7, device=device).t() if transposed else torch.randn(7, 3, device=device)
    out = torch.empty(5, 4, device=device)[:, :3]
    assert torch.equal(matmul(a, b), a @ b)
    assert matmul(a, b, out) is out and torch.equal(out, a @ b)


def test_sums_of_16_bit_operands_stay_in_fp32():
    a, b = (torch.randn(4, 4).bfloat16() for _ in range(2))
    got = matmul_fp32(a, b)
    assert got.dtype == torch.float32 and torch.equal(got, a.float() @ b.float())
    assert matmul_fp32(a[:, :0], b[:0]).equal(torch.zeros(4, 4))


@pytest.mark.parametrize("columns", [1, 64, 65, 4112])
def test_rows_of_operands_start_at_lines_of_the_cache(columns):
    rows = aligned(3, columns, torch.bfloat16, torch.device("cpu"))
    assert rows.shape == (3, columns)
    assert rows.stride(0) * 2 == row_bytes(columns, torch.bfloat16)
    assert rows.stride(0) * 2 % 128 == 0 and rows.stride(0) < columns + 64
