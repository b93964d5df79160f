"""Packed rows go the way that was proven for the model's heads, and of those the fastest."""

import pytest
import torch
from tiny_layers import DEVICE, tiny

from evenfall.engine.model.layers import packed_attention as attention
from evenfall.engine.model.layers.packed_attention import Ways
from evenfall.engine.model.patch import attention as module
from evenfall.engine.model.patch.attention import patch_attention
from evenfall.kernels.backend import triton_runs_on

pytestmark = pytest.mark.skipif(not triton_runs_on(DEVICE), reason="needs Triton's interpreter")


@pytest.mark.parametrize(
    ("family", "changes", "ways"),
    [
        ("llama", {}, Ways(equal="rows", mixed="kernel", windowed="kernel", softcapped="each")),
        ("mistral", {}, Ways(equal="rows", mixed="kernel", windowed="kernel", softcapped="each")),
        (
            "qwen3",
            {"head_dim": 24},
            Ways(equal="rows", mixed="kernel", windowed="kernel", softcapped="each"),
        ),
        (
            "gemma2",
            {"sliding_window": 6},
            Ways(equal="rows", mixed="each", windowed="each", softcapped="kernel"),
        ),
    ],
)
def test_the_kernel_passes_for_every_kind_of_attention(family, changes, ways):
    found, part = patch_attention(tiny(family, **changes), DEVICE, force=True)
    assert found == ways
    assert part is not None and part.fast and part.count == 2, part
    assert part.error is not None and part.error < 1e-4


def test_a_wrong_kernel_is_not_used(monkeypatch):
    real = attention.packed_attention

    def wrong(q, k, v, starts, ends, **options):
        return real(q, k, v, torch.zeros_like(starts), ends, **options)

    monkeypatch.setattr(attention, "packed_attention", wrong)
    ways, part = patch_attention(tiny("llama"), DEVICE, force=True)
    assert part is not None and not part.fast and "off by" in part.reason
    assert "kernel" not in (ways.equal, ways.mixed, ways.windowed)


def test_a_kernel_that_fails_is_not_used(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(attention, "packed_attention", broken)
    ways, part = patch_attention(tiny("llama"), DEVICE, force=True)
    assert part is not None and not part.fast and "no such instruction" in part.reason
    assert "kernel" not in (ways.equal, ways.mixed, ways.windowed)


def test_a_window_and_a_softcap_are_part_of_the_proof(monkeypatch):
    real = attention.packed_attention
    for name, family in (("window", "mistral"), ("softcap", "gemma2")):

        def without(*args, name=name, **options):
            return real(*args, **{**options, name: None})

        monkeypatch.setattr(attention, "packed_attention", without)
        _, part = patch_attention(tiny(family, sliding_window=6), DEVICE, force=True)
        assert part is not None and not part.fast, name


@pytest.mark.parametrize("fastest", ["kernel", "rows"])
def test_the_fastest_way_is_taken_and_named(monkeypatch, fastest):
    monkeypatch.setattr(module, "_time", lambda ways, *_: {way: 1.0 + (way != fastest) for way in ways})
    ways, part = patch_attention(tiny("llama"), DEVICE, (8, 8, 8), force=True)
    assert ways.equal == fastest and ways.mixed == "kernel"
    assert part is not None and "rows of 8 in" in part.reason and "1.00 ms" in part.reason


def test_timing_that_runs_out_of_memory_ends_no_run(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_time", fail)
    ways, part = patch_attention(tiny("llama"), DEVICE, (8, 5), force=True)
    assert ways.mixed == "kernel" and part is not None and part.fast
    assert " ms" not in part.reason


def test_no_more_is_timed_than_tells_something(monkeypatch):
    timed = []
    monkeypatch.setattr(module, "_time", lambda ways, *a: timed.append(a[-1]) or dict.fromkeys(ways, 1.0))
    for lengths in ((20_000, 10_000, 9_000), (70_000, 5)):
        patch_attention(tiny("llama"), DEVICE, lengths, force=True)
    assert timed == [(20_000, 10_000), (70_000,)]


def test_ways_are_really_timed_on_documents_like_the_runs(monkeypatch):
    timed = []
    real = module.attend

    def watched(*args, documents, **options):
        timed.append(documents.lengths)
        return real(*args, documents=documents, **options)

    monkeypatch.setattr(module, "attend", watched)
    ways, part = patch_attention(tiny("llama"), DEVICE, (8, 8), force=True)
    assert timed.count((8, 8)) == 2 * 7 and ways.equal in ("rows", "kernel")
    assert part is not None and part.reason.count(" ms") == 2


def test_a_model_with_attention_of_its_own_is_left_alone():
    found = patch_attention(tiny("llama", implementation="sdpa"), DEVICE, force=True)
    assert found == (Ways(), None)
    if not torch.cuda.is_available():
        ways, part = patch_attention(tiny("llama"), "cpu")
        assert ways == Ways() and part is not None and not part.fast
