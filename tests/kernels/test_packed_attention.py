"""Attention in packed rows: numbers, masks, strides and edge cases against plain torch."""

import itertools
from typing import Any

import pytest
import torch

from evenfall.kernels import packed_attention as module
from evenfall.kernels.accuracy import Comparison, relative_rms_error
from evenfall.kernels.backend import INTERPRETED
from evenfall.kernels.packed_attention import (
    MAX_HEAD_SIZE,
    Tile,
    document_bounds,
    packed_attention,
    packed_attention_backward,
    packed_attention_forward,
    packed_attention_reference,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Short ones that share tiles, of a single token, an empty one, one longer than several tiles.
MIXED = (1, 5, 0, 40, 1, 16, 101, 12)


@pytest.fixture(autouse=True)
def multiply_bf16(monkeypatch):
    """Make the interpreter multiply matrices of bf16, which it keeps as integers, as numbers."""
    if not INTERPRETED:
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot = InterpreterBuilder.create_dot

    def wide(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = np.ascontiguousarray(handle.data).astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):
        return dot(self, wide(a), wide(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def small_tiles(monkeypatch):
    """Many tiles to a short row, and more heads in a group than in a tile."""
    tiles = {
        "forward": Tile(32, 16, 4, 2, heads=2),
        "query gradient": Tile(32, 32, 4, 2, heads=2),
        "key gradient": Tile(32, 16, 4, 2, heads=2),
    }
    monkeypatch.setattr(module, "_tile", lambda kernel, q: tiles[kernel])


def normal(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def bounds_of(device, lengths, tokens=None):
    offsets = torch.tensor((0, *itertools.accumulate(lengths)), dtype=torch.int32, device=device)
    return document_bounds(offsets, sum(lengths) if tokens is None else tokens)


def operands_of(device, tokens, heads, kv_heads, size, dtype=torch.float32):
    """q, k, v and the gradient of the output."""
    counts = (heads, kv_heads, kv_heads, heads)
    return [normal(device, tokens, n, size, dtype=dtype, seed=s) for s, n in enumerate(counts)]


def run(attend, tensors, *bounds, **options):
    """The output and the gradients of q, k and v."""
    *leaves, dout = tensors
    leaves = [t.detach().requires_grad_() for t in leaves]
    out = attend(*leaves, *bounds, **options)
    return out.detach(), *torch.autograd.grad(out, leaves, dout)


def rounding_of_weights(q, k, starts, **options):
    """How much one rounding of the largest logit to fp32 changes its weight, relative.

    Eager's backward has its softmax at hand, in which the error of a row's largest logit cancels. The
    kernels keep a row's log of the sum of exponentials, and compute logits once more, in another
    order: the exponential of a difference of two rounded numbers is as wrong as these are.
    """
    options = {"scale": q.shape[2] ** -0.5, "window": None, "softcap": None} | options
    logits = module._reference_logits(q.double(), k.double(), starts, **options)
    largest = logits[logits.isfinite()].abs().max().item()
    return largest * torch.finfo(torch.float32).eps / 2


def judge(tensors, starts, ends, **options):
    """`Comparison` of the output and of each gradient, as `accuracy.compare` makes them for parts
    that act row by row."""
    got = run(packed_attention, tensors, starts, ends, **options)
    eager = run(packed_attention_reference, tensors, starts, **options)
    truth = run(packed_attention_reference, [t.double() for t in tensors], starts, **options)
    rounding = torch.finfo(tensors[0].dtype).eps / 2
    weights = max(rounding, rounding_of_weights(tensors[0], tensors[1], starts, **options))
    roundings = {"out": rounding, "grad q": weights, "grad k": weights, "grad v": weights}
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(got, eager, strict=True))
    return [
        Comparison(
            tensor=name,
            error=relative_rms_error(a, t),
            eager_error=relative_rms_error(b, t),
            rounding=one,
        )
        for (name, one), a, b, t in zip(roundings.items(), got, eager, truth, strict=True)
    ]


def assert_as_close_as_eager(*args, **options):
    results = judge(*args, **options)
    assert all(r.passed for r in results), results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [(3, 8), (64, 64), (257,), MIXED, (9,) * 30], ids=str)
def test_output_and_gradients_are_as_close_as_eager(device, lengths, dtype):
    tensors = operands_of(device, sum(lengths), 4, 2, 32, dtype)
    assert_as_close_as_eager(tensors, *bounds_of(device, lengths))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 80, 96, 128, 256])
def test_sizes_of_heads(device, size, dtype):
    tensors = operands_of(device, 150, 4, 1, size, dtype)
    assert_as_close_as_eager(tensors, *bounds_of(device, (20, 97, 33)))


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (8, 2), (7, 1), (6, 2), (16, 1)], ids=str)
def test_groups_of_heads(device, heads):
    tensors = operands_of(device, 90, heads[0], heads[1], 16, torch.bfloat16)
    assert_as_close_as_eager(tensors, *bounds_of(device, (20, 37, 33)))


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [2, 16, 33, 1000])
def test_windows(device, small_tiles, window, softcap):
    tensors = operands_of(device, sum(MIXED), 2, 1, 16)
    bounds = bounds_of(device, MIXED)
    assert_as_close_as_eager(tensors, *bounds, window=window, softcap=softcap)


@pytest.mark.parametrize("options", [{}, {"window": 1}], ids=str)
def test_a_query_with_one_key_takes_its_value_and_moves_no_logit(device, options):
    lengths = (40,) if options else (1,) * 40
    tensors = operands_of(device, 40, 4, 2, 16)
    out, dq, dk, dv = run(packed_attention, tensors, *bounds_of(device, lengths), **options)
    torch.testing.assert_close(out, tensors[2].repeat_interleave(2, dim=1))
    torch.testing.assert_close(dv, tensors[3].unflatten(1, (2, 2)).sum(2))
    assert max(dq.abs().max().item(), dk.abs().max().item()) < 1e-4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("softcap", [2.0, 50.0])
def test_soft_caps(device, softcap, dtype):
    tensors = operands_of(device, sum(MIXED), 4, 2, 64, dtype)
    tensors[0] *= 8  # so that logits reach the cap
    assert_as_close_as_eager(tensors, *bounds_of(device, MIXED), softcap=softcap, scale=0.2)


@pytest.mark.parametrize("lengths", [(110,), (31, 33, 15, 17, 32, 16, 1)], ids=str)
def test_documents_that_straddle_tiles(device, small_tiles, lengths):
    """With more heads in a group than in a tile."""
    tensors = operands_of(device, sum(lengths), 4, 1, 16)
    assert_as_close_as_eager(tensors, *bounds_of(device, lengths))


def test_a_packed_row_equals_its_documents_apart(device, small_tiles):
    tensors = operands_of(device, sum(MIXED), 2, 1, 32)
    packed = run(packed_attention, tensors, *bounds_of(device, MIXED))
    parts = [part for part in zip(*(t.split(MIXED) for t in tensors), strict=True) if len(part[0])]
    apart = [run(packed_attention, part, *bounds_of(device, (len(part[0]),))) for part in parts]
    for got, pieces in zip(packed, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(got, torch.cat(pieces), rtol=1e-4, atol=2e-5)


# numpy's, in the interpreter
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered", "ignore:All-NaN slice")
@pytest.mark.parametrize("options", [{}, {"window": 20, "softcap": 30.0}], ids=str)
@pytest.mark.parametrize("tiles", ["real", "small"])
def test_no_token_sees_another_document(device, request, tiles, options):
    if tiles == "small":
        request.getfixturevalue("small_tiles")
    lengths = (11, 70, 24)
    bounds = bounds_of(device, lengths)
    tensors = operands_of(device, sum(lengths), 2, 1, 32)
    before = run(packed_attention, tensors, *bounds, **options)
    for document, inside in enumerate(torch.arange(sum(lengths)).split(lengths)):
        others = torch.ones(sum(lengths), dtype=torch.bool)
        others[inside] = False
        changed = [t.clone() for t in tensors]
        for tensor in changed:
            tensor[inside] *= 1e30
        after = run(packed_attention, changed, *bounds, **options)
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[others], new[others]), document
            assert not torch.equal(old[inside], new[inside])


def test_no_token_sees_a_later_one(device, small_tiles):
    q, k, v, _ = operands_of(device, 100, 2, 1, 16)
    bounds = bounds_of(device, (100,))
    before = packed_attention(q, k, v, *bounds)
    for first in (99, 64, 33, 1):
        later = (torch.arange(100, device=device) >= first)[:, None, None] * 3
        after = packed_attention(q + later, k + later, v + later, *bounds)
        assert torch.equal(before[:first], after[:first])
        assert (before[first:] != after[first:]).any(dim=2).any(dim=1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slices_of_wider_buffers_are_read_and_written_in_place(device, dtype):
    """The layout of a fused projection with columns of an adapter behind it, both ways."""
    heads, kv_heads, size, extra = 4, 2, 48, 24
    lengths = (30, 1, 59)
    tokens, starts, ends = sum(lengths), *bounds_of(device, lengths)
    widths = [heads * size, kv_heads * size, kv_heads * size]

    def parts(buffer):
        columns = buffer[:, : sum(widths)].split(widths, dim=1)
        return [part.unflatten(1, (-1, size)) for part in columns]

    def wide(columns):
        return torch.full((tokens, columns + extra), 7.0, dtype=dtype, device=device)

    fused, dout = (normal(device, tokens, n + extra, dtype=dtype, seed=n) for n in (sum(widths), widths[0]))
    q, k, v = parts(fused)
    dout = dout[:, : widths[0]].unflatten(1, (-1, size))
    want = run(packed_attention, [t.contiguous() for t in (q, k, v, dout)], starts, ends)

    outputs, gradients = wide(widths[0]), wide(sum(widths))
    out = outputs[:, : widths[0]].unflatten(1, (-1, size))
    options = {"scale": size**-0.5}
    lse = packed_attention_forward(q, k, v, starts, out, **options)
    packed_attention_backward(dout, q, k, v, out, lse, starts, ends, *parts(gradients), **options)
    for got, expected in zip((out, *parts(gradients)), want, strict=True):
        assert torch.equal(got, expected)
    assert (outputs[:, widths[0] :] == 7).all() and (gradients[:, sum(widths) :] == 7).all()
    logits = module._reference_logits(q.double(), k.double(), starts, size**-0.5, None, None)
    assert lse.shape == (heads, tokens) and lse.dtype == torch.float32
    truth = logits.logsumexp(-1) / torch.tensor(2.0).log()
    torch.testing.assert_close(lse.double(), truth, rtol=1e-5, atol=1e-5)


def test_heads_before_tokens_and_scattered_values_change_nothing(device):
    tensors = operands_of(device, 70, 4, 2, 32)
    bounds = bounds_of(device, (40, 30))
    want = run(packed_attention, tensors, *bounds)
    for order in ((1, 0, 2), (2, 0, 1)):
        back = [order.index(d) for d in range(3)]
        turned = [t.permute(order).contiguous().permute(back) for t in tensors]
        got = run(packed_attention, turned, *bounds)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_the_same_input_gives_the_same_bits(device):
    tensors = operands_of(device, 130, 4, 2, 32, torch.bfloat16)
    bounds = bounds_of(device, (40, 90))
    first, second = (run(packed_attention, tensors, *bounds) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_kernels_the_raw_functions_compute_the_same(device, monkeypatch):
    tensors = operands_of(device, sum(MIXED), 4, 2, 32)
    bounds = bounds_of(device, MIXED)
    options = {"scale": 0.3, "window": 50, "softcap": 4.0}
    want = run(packed_attention_reference, tensors, bounds[0], **options)
    q, k, v, dout = tensors
    sums = []
    for kernels in (True, False):
        if not kernels:
            monkeypatch.setattr(module, "takes_triton", lambda *tensors: False)
        out, grads = torch.empty_like(q), [torch.empty_like(t) for t in (q, k, v)]
        lse = packed_attention_forward(q, k, v, bounds[0], out, **options)
        packed_attention_backward(dout, q, k, v, out, lse, *bounds, *grads, **options)
        for got, expected in zip((out, *grads), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        sums.append(lse)
    torch.testing.assert_close(*sums)


def test_bounds_of_documents(device):
    offsets = torch.tensor([0, 3, 3, 4, 8], device=device)
    starts, ends = document_bounds(offsets, 8)
    assert starts.dtype == ends.dtype == torch.int32
    assert starts.tolist() == [0, 0, 0, 3, 4, 4, 4, 4]
    assert ends.tolist() == [3, 3, 3, 4, 8, 8, 8, 8]


def test_tokens_after_the_last_document_are_one_document(device):
    starts, ends = document_bounds(torch.tensor([0, 3, 3], device=device, dtype=torch.int32), 6)
    assert starts.tolist() == [0, 0, 0, 3, 3, 3] and ends.tolist() == [3, 3, 3, 6, 6, 6]
    starts, ends = document_bounds(torch.tensor([2, 9], device=device), 5)
    assert starts.tolist() == [0, 0, 2, 2, 2] and ends.tolist() == [2, 2, 5, 5, 5]
    tensors = operands_of(device, 120, 2, 1, 16)
    assert_as_close_as_eager(tensors, *bounds_of(device, (30, 20), tokens=120))


def test_no_tokens(device):
    starts, ends = document_bounds(torch.zeros(1, dtype=torch.int32, device=device), 0)
    q = torch.zeros(0, 4, 16, device=device, requires_grad=True)
    out = packed_attention(q, q, q, starts, ends)
    out.sum().backward()
    assert out.shape == (0, 4, 16) and q.grad is not None and q.grad.shape == (0, 4, 16)


def test_heads_too_wide_for_a_tile_take_the_reference(device):
    tensors = operands_of(device, 12, 2, 1, MAX_HEAD_SIZE + 8)
    starts, ends = bounds_of(device, (12,))
    got = run(packed_attention, tensors, starts, ends)
    want = run(packed_attention_reference, tensors, starts)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_every_size_and_dtype_has_tiles_that_hold_all_heads(device):
    for kernel, size, dtype in itertools.product(
        ("forward", "query gradient", "key gradient"), (16, 64, 80, 128, 256), DTYPES
    ):
        for heads in (1, 3, 4, 7, 8, 12, 16, 32):
            q = torch.zeros(1, heads, size, dtype=dtype, device=device)
            options = module._launch_options(kernel, q, q[:, :1], None)
            assert heads % options["HEADS"] == 0 and options["TOKENS"] >= 16
            assert options["COLS"] >= size


def test_what_does_not_fit_is_refused(device):
    q, k, v, _ = operands_of(device, 6, 4, 2, 16)
    starts, ends = bounds_of(device, (6,))
    cases: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        (r"alike but for q's heads.*v is \(6, 2, 8\)", (q, k, v[..., :8], starts, ends), {}),
        ("alike but for q's heads", (q, k[:5], v[:5], starts, ends), {}),
        ("must divide", (q[:, :3], k, v, starts, ends), {}),
        ("one dtype", (q, k.half(), v, starts, ends), {}),
        ("starts must be int32", (q, k, v, starts.long(), ends), {}),
        (r"ends must be int32 of shape \(6,\)", (q, k, v, starts, ends[:5]), {}),
        ("window must be positive, not 0", (q, k, v, starts, ends), {"window": 0}),
        ("softcap must be positive", (q, k, v, starts, ends), {"softcap": -1.0}),
        ("scale must be positive", (q, k, v, starts, ends), {"scale": 0.0}),
    )
    for match, operands, options in cases:
        with pytest.raises(ValueError, match="packed_attention: .*" + match):
            packed_attention(*operands, **options)
