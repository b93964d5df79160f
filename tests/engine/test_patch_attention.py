"""Packed rows go through our kernel only where it was proven for the model's heads."""

import pytest
import torch
from tiny_layers import DEVICE, tiny

from evenfall.engine import attention
from evenfall.engine.patch_attention import patch_attention as prove
from evenfall.kernels.backend import triton_runs_on

pytestmark = pytest.mark.skipif(not triton_runs_on(DEVICE), reason="needs Triton's interpreter")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("mistral", {}),
        ("gemma2", {"sliding_window": 6}),
        ("qwen3", {"head_dim": 24}),
    ],
)
def test_the_kernel_passes_for_every_kind_of_attention(family, changes):
    part = prove(tiny(family, **changes), DEVICE, force=True)
    assert part is not None and part.fast, part
    assert part.count == 2 and part.error is not None and part.error < 1e-4


def test_a_wrong_kernel_is_not_used(monkeypatch):
    real = attention.packed_attention

    def wrong(q, k, v, starts, ends, **options):
        return real(q, k, v, torch.zeros_like(starts), ends, **options)

    monkeypatch.setattr(attention, "packed_attention", wrong)
    part = prove(tiny("llama"), DEVICE, force=True)
    assert part is not None and not part.fast and "off by" in part.reason


def test_a_kernel_that_fails_is_not_used(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(attention, "packed_attention", broken)
    part = prove(tiny("llama"), DEVICE, force=True)
    assert part is not None and not part.fast and "no such instruction" in part.reason


def test_a_window_and_a_softcap_are_part_of_the_proof(monkeypatch):
    real = attention.packed_attention
    for name in ("window", "softcap"):

        def without(*args, name=name, **options):
            return real(*args, **{**options, name: None})

        monkeypatch.setattr(attention, "packed_attention", without)
        part = prove(tiny("gemma2", sliding_window=6), DEVICE, force=True)
        assert part is not None and not part.fast, name


def test_a_model_with_attention_of_its_own_is_left_alone():
    assert prove(tiny("llama", implementation="sdpa"), DEVICE, force=True) is None
    if not torch.cuda.is_available():
        part = prove(tiny("llama"), "cpu")
        assert part is not None and not part.fast
