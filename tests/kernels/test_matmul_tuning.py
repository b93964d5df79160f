"""Measuring matmul algorithms: what can be seen without a GPU. The rest is tests/gpu/matmul_gpu.py."""

import torch

from evenfall.kernels.matmul_choices import Product
from evenfall.kernels.matmul_tuning import agree, tune


def test_without_cublaslt_nothing_is_measured():
    product = Product(10**5, 10**4, 10**4, True)
    assert tune([product], torch.bfloat16, torch.device("cpu")) == []


def test_results_agree_up_to_a_rounding_and_not_with_a_wrong_tile():
    a, b = torch.randn(3000, 512), torch.randn(512, 64)
    a, b = a.bfloat16(), b.bfloat16()
    want = torch.mm(a, b)
    assert agree(want.clone(), want)
    halves = [a[:, part].float() @ b[part].float() for part in (slice(256), slice(256, None))]
    assert agree((halves[0] + halves[1]).bfloat16(), want)
    assert not agree(halves[0].bfloat16() + halves[1].bfloat16(), want)
    wrong = want.clone()
    wrong[2000:2008, 8:16] = 0
    assert not agree(wrong, want)
    wrong = want.clone()
    wrong[2000, 0] = float("nan")
    assert not agree(wrong, want)
