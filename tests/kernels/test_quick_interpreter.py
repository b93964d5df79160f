"""The interpreter that the other tests use computes what Triton's own does, to the bit."""

import hashlib
from pathlib import Path

import pytest
import torch
from compiling import python

from evenfall.kernels.backend import INTERPRETED
from evenfall.kernels.glu import geglu
from evenfall.kernels.linear_cross_entropy import linear_cross_entropy
from evenfall.kernels.packed_attention import document_bounds, packed_attention
from evenfall.kernels.rms_norm import add_rms_norm
from evenfall.kernels.rope import rope


def numbers() -> str:
    """A digest of what kernels of every kind give, forward and backward, in every dtype."""
    generator = torch.Generator().manual_seed(0)
    made: list[torch.Tensor] = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):

        def random(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

        x, weight, head = random(5, 72), random(72), random(40, 72).detach()
        q, k = random(5, 6, 10), random(5, 2, 10)
        cos, sin = torch.randn(2, 5, 8, generator=generator)
        bounds = document_bounds(torch.tensor([0, 2]), 5)
        added, total = add_rms_norm(x, x * 2, weight, 1e-6)
        turned = rope(q, k, cos, sin)
        seen = packed_attention(*turned, k, *bounds, softcap=20.0)
        gated = geglu(added, total)
        loss = linear_cross_entropy(gated, head, torch.tensor([3, -100, 39, 0, 7]))
        (loss.float().sum() + seen.float().square().sum()).backward()
        made += [added, total, *turned, seen, gated, loss]
        made += [one.grad for one in (x, weight, q, k) if one.grad is not None]
    assert len(made) == 33 and all(value.detach().abs().max() > 0 for value in made)
    digest = hashlib.sha256()
    for value in made:
        digest.update(value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.skipif(not INTERPRETED, reason="kernels run on a GPU")
def test_a_quick_kernel_gives_the_bits_of_a_slow_one(monkeypatch):
    folder = str(Path(__file__).parent)
    alone = f"import sys; sys.path.insert(0, {folder!r}); import {Path(__file__).stem} as it"
    slow = python(f"{alone}; print(it.numbers())")
    assert slow.returncode == 0, slow.stderr
    monkeypatch.undo()  # bf16 is cut off here as there
    assert numbers() == slow.stdout.strip()
