"""Rotary embedding: the maps of transformers, their transposes, layouts and edge cases."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig
from transformers.models.cohere import modeling_cohere
from transformers.models.ernie4_5 import modeling_ernie4_5
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama
from transformers.models.phi3 import modeling_phi3

from evenfall.kernels import rope as module
from evenfall.kernels.accuracy import compare, relative_rms_error
from evenfall.kernels.rope import rope, rope_, rope_reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
both_kinds = pytest.mark.parametrize("interleaved", [False, True], ids=["half-split", "interleaved"])

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0}
YARN |= {"original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}

# Model type, its frequencies, the size of its heads, how much of that is rotated, whether
# interleaved.
FAMILIES = {
    "llama": (modeling_llama, PLAIN, 16, 16, False),
    "llama, llama3": (modeling_llama, LLAMA3, 16, 16, False),
    "llama, yarn": (modeling_llama, YARN, 16, 16, False),
    "llama, linear": (modeling_llama, LINEAR, 16, 16, False),
    "llama, dynamic": (modeling_llama, DYNAMIC, 16, 16, False),
    "phi3": (modeling_phi3, {**PLAIN, "partial_rotary_factor": 0.75}, 24, 18, False),
    "glm": (modeling_glm, {**PLAIN, "partial_rotary_factor": 0.5}, 20, 10, True),
    "ernie4_5": (modeling_ernie4_5, PLAIN, 16, 16, True),
}


def normal(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def heads(device, tokens, q_heads, k_heads, size, dtype=torch.float32):
    """Standard normal q and k."""
    return (
        normal(device, tokens, q_heads, size, dtype=dtype),
        normal(device, tokens, k_heads, size, dtype=dtype, seed=1),
    )


def tables(device, tokens, size, dtype=torch.float32, factor=1.0):
    """cos and sin ``[tokens, size]`` of some angles, times an attention factor."""
    angles = (torch.arange(tokens, device=device)[:, None] + 0.3) / torch.arange(1, size // 2 + 1, device=device)
    angles = angles.repeat(1, 2)
    return (factor * angles.cos()).to(dtype), (factor * angles.sin()).to(dtype)


def own_tables(device, family, tokens, dtype):
    """What the family's own rotary module makes of the positions of two packed documents."""
    modeling, parameters, size, _, _ = FAMILIES[family]
    config = AutoConfig.for_model(
        family.partition(",")[0], hidden_size=4 * size, num_attention_heads=4, head_dim=size,
        num_key_value_heads=2, max_position_embeddings=64, rope_parameters=parameters,
    )  # fmt: skip
    (name,) = [n for n in vars(modeling) if n.endswith("RotaryEmbedding")]
    rotary = getattr(modeling, name)(config).to(device)
    lengths = tokens // 3, tokens - tokens // 3
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])
    cos, sin = rotary(torch.zeros(1, dtype=dtype, device=device), positions[None])
    return cos[0], sin[0]


def stock(family, q, k, cos, sin):
    """The family's own function, which takes ``[batch, heads, tokens, size]``."""
    turn = FAMILIES[family][0].apply_rotary_pos_emb
    out = turn(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None])
    return [x[0].transpose(0, 1) for x in out]


def part(turn, cos, sin, size, interleaved=False):
    """`turn` for `compare`: on rows of heads, with the results side by side. cos and sin are those
    of the rows that it is judged on, all of them."""

    def joined(q, k):
        q, k = (x.view(len(x), -1, size) for x in (q, k))
        return torch.cat([x.flatten(1) for x in turn(q, k, cos, sin, interleaved=interleaved)], 1)

    return joined


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_reference_is_the_function_of_transformers(device, family, dtype):
    _, _, size, rotary, interleaved = FAMILIES[family]
    cos, sin = own_tables(device, family, 90, dtype)
    assert cos.shape == (90, rotary) and torch.equal(cos[:, : rotary // 2], cos[:, rotary // 2 :])
    q, k = heads(device, 90, 4, 2, size, dtype)
    got = rope_reference(q, k, cos, sin, interleaved=interleaved)
    assert all(torch.equal(a, b) for a, b in zip(got, stock(family, q, k, cos, sin), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_kernel_computes_what_transformers_does(device, family, dtype):
    _, _, size, _, interleaved = FAMILIES[family]
    cos, sin = own_tables(device, family, 33, dtype)
    q, k = heads(device, 33, 4, 2, size, dtype)
    q.requires_grad_()
    k.requires_grad_()
    want = stock(family, q, k, cos, sin)
    dout = [normal(device, *x.shape, dtype=dtype, seed=2) for x in want]
    want += torch.autograd.grad(want, (q, k), dout)
    got = list(rope(q, k, cos, sin, interleaved=interleaved))
    got += torch.autograd.grad(got, (q, k), dout)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype == dtype
        assert relative_rms_error(a.detach(), b.detach()) < 2 * torch.finfo(dtype).eps


def test_tables_of_cohere_fit_once_rearranged(device):
    """As the module docstring says."""
    cos, sin = (x.repeat_interleave(2, -1)[:, :16] for x in tables(device, 9, 16))
    q, k = heads(device, 9, 4, 2, 16)
    turn = modeling_cohere.apply_rotary_pos_emb
    want = turn(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None])
    cos, sin = (torch.cat([x[..., ::2]] * 2, -1) for x in (cos, sin))
    for a, b in zip(rope(q, k, cos, sin, interleaved=True), want, strict=True):
        torch.testing.assert_close(a, b[0].transpose(0, 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("table_dtype", [None, torch.float32], ids=["same", "fp32 tables"])
@pytest.mark.parametrize(
    ("tokens", "q_heads", "k_heads", "size", "rotary"),
    [(1, 1, 1, 2, 2), (3, 5, 1, 7, 6), (41, 9, 3, 64, 64), (6, 32, 8, 128, 128), (5, 3, 3, 80, 20)],
)
@both_kinds
def test_output_and_gradients_are_as_close_as_eager(
    device, interleaved, tokens, q_heads, k_heads, size, rotary, table_dtype, dtype
):
    cos, sin = tables(device, tokens, rotary, table_dtype or dtype, factor=1.2)
    operands = {
        "q": normal(device, tokens, q_heads * size, dtype=dtype),
        "k": normal(device, tokens, k_heads * size, dtype=dtype, seed=1),
    }
    fast, eager = (part(f, cos, sin, size, interleaved) for f in (rope, rope_reference))
    results = compare(fast, eager, operands, torch.Generator(device).manual_seed(2))
    assert [r.tensor for r in results] == ["out", "grad q", "grad k"]
    assert all(r.passed for r in results), results


def matrix(device, turn, size, heads=1):
    """The linear map on q of one token, column by column."""
    unit = torch.eye(heads * size, device=device).view(-1, heads, size)
    turn(unit)
    return unit.flatten(1).t()


@pytest.mark.parametrize("factor", [1.0, 1.7])
@both_kinds
def test_inverse_is_the_transpose_whatever_the_attention_factor(device, interleaved, factor):
    size, rotary = 12, 8
    cos, sin = (x[3:].expand(size, -1) for x in tables(device, 4, rotary, factor=factor))

    def turn(x, **kind):
        rope_(x, torch.zeros_like(x), cos, sin, interleaved=interleaved, **kind)

    forward, backward = matrix(device, turn, size), torch.eye(size, device=device)
    turn(backward[:, None], inverse=True)
    assert torch.equal(backward.t(), forward.t())
    scale = torch.full((size,), factor**2, device=device)
    scale[rotary:] = 1
    torch.testing.assert_close(forward.t() @ forward, torch.diag(scale))
    assert forward[0].count_nonzero() == 2


@pytest.mark.parametrize("extra", [0, 5, 16])
@pytest.mark.parametrize("rotary", [16, 8])
@both_kinds
def test_slices_of_a_fused_projection_are_turned_in_place(device, interleaved, rotary, extra):
    """[tokens, (heads + 2 key heads) * size + extra]: nothing but the rotated values changes."""
    tokens, q_heads, k_heads, size = 11, 6, 2, 16
    fused = normal(device, tokens, (q_heads + 2 * k_heads) * size + extra)
    before = fused.clone()
    cos, sin = tables(device, tokens, rotary)

    def slices(x):
        q, k, rest = x.tensor_split((q_heads * size, (q_heads + k_heads) * size), dim=1)
        return q.unflatten(1, (q_heads, size)), k.unflatten(1, (k_heads, size)), rest

    q, k, rest = slices(fused)
    want = rope_reference(q, k, cos, sin, interleaved=interleaved)
    rope_(q, k, cos, sin, interleaved=interleaved)
    for got, expected in zip((q, k), want, strict=True):
        torch.testing.assert_close(got, expected)
        assert torch.equal(got[..., rotary:], expected[..., rotary:])
    assert torch.equal(rest, slices(before)[2])
    rope_(q, k, cos, sin, interleaved=interleaved, inverse=True)
    torch.testing.assert_close(fused, before)


@pytest.mark.parametrize("rotary", [16, 8])
@both_kinds
def test_results_may_go_elsewhere_and_leave_the_operands_alone(device, interleaved, rotary):
    tokens, q_heads, k_heads, size = 11, 6, 2, 16
    q, k = heads(device, tokens, q_heads, k_heads, size)
    # Heads before tokens, as attention's gradients may come.
    q = q.transpose(0, 1).contiguous().transpose(0, 1)
    fused = torch.full((tokens, q_heads + 2 * k_heads, size), 7.0, device=device)
    out = fused[:, :q_heads], fused[:, q_heads : q_heads + k_heads]
    cos, sin = tables(device, tokens, rotary)
    before = q.clone(), k.clone()
    rope_(q, k, cos, sin, interleaved=interleaved, out=out)
    assert torch.equal(q, before[0]) and torch.equal(k, before[1])
    for got, want in zip(out, rope_reference(q, k, cos, sin, interleaved=interleaved), strict=True):
        torch.testing.assert_close(got, want)
    assert bool((fused[:, q_heads + k_heads :] == 7.0).all())
    with pytest.raises(ValueError, match="out"):
        rope_(q, k, cos, sin, out=(out[1], out[0]))


@pytest.mark.parametrize("which", ["q", "k", "both"])
@both_kinds
def test_heads_before_tokens_and_strided_tables_are_the_same_to_it(device, interleaved, which):
    cos, sin = (x[::3] for x in tables(device, 27, 16))
    q, k = heads(device, 9, 4, 2, 16)
    want = rope(q, k, cos.contiguous(), sin.contiguous(), interleaved=interleaved)
    if which != "k":
        q = q.transpose(0, 1).contiguous().transpose(0, 1)
    if which != "q":
        k = k.transpose(0, 1).contiguous().transpose(0, 1)
    rope_(q, k, cos, sin, interleaved=interleaved)
    assert torch.equal(q, want[0]) and torch.equal(k, want[1])


def test_one_row_of_tables_may_stand_for_all_tokens(device):
    q, k = heads(device, 9, 4, 2, 16)
    cos, sin = tables(device, 1, 16)
    got = rope(q, k, cos.expand(9, -1), sin.expand(9, -1))
    for a, b in zip(got, rope_reference(q, k, cos, sin), strict=True):
        torch.testing.assert_close(a, b)


@both_kinds
def test_heads_that_exceed_one_program_are_turned_by_several(device, monkeypatch, interleaved):
    q, k = heads(device, 4, 13, 2, 24)
    cos, sin = tables(device, 4, 24)
    whole = rope(q, k, cos, sin, interleaved=interleaved)
    monkeypatch.setattr(module, "_TILE", 4 * 32)
    assert module._tile(13, 2, 12) == (4, 4, 1, 16)
    split = rope(q, k, cos, sin, interleaved=interleaved)
    assert all(torch.equal(a, b) for a, b in zip(whole, split, strict=True))


def test_programs_are_as_the_tile_rule_says():
    pytest.importorskip("triton")
    assert module._tile(32, 8, 64) == (1, 32, 8, 64)  # Llama 3 8B
    assert module._tile(64, 8, 64) == (1, 64, 8, 64)  # Llama 3 70B
    assert module._tile(8, 1, 128) == (1, 8, 1, 128)  # Gemma 2B
    assert module._tile(28, 4, 64) == (1, 32, 4, 64)  # Qwen 2.5 7B
    assert module._tile(128, 128, 64) == (2, 64, 64, 64)


@pytest.mark.parametrize("which", ["q", "k"])
def test_one_of_the_two_may_need_no_gradient(device, which):
    q, k = heads(device, 5, 4, 2, 8)
    cos, sin = tables(device, 5, 8)
    leaf = (q if which == "q" else k).requires_grad_()
    out = rope(q, k, cos, sin)[0 if which == "q" else 1]
    out.square().sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * leaf.detach())  # a rotation leaves the norm alone


def test_operands_and_gradients_of_others_are_left_alone(device):
    q, k, cos, sin = *heads(device, 5, 4, 2, 8), *tables(device, 5, 8)
    before = [t.clone() for t in (q, k, cos, sin)]
    out = rope(q.requires_grad_(), k.requires_grad_(), cos, sin)
    dout = [normal(device, *x.shape, seed=2) for x in out]
    kept = [x.clone() for x in dout]
    torch.autograd.grad(out, (q, k), dout)
    assert all(torch.equal(a, b) for a, b in zip((q, k, cos, sin), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(dout, kept, strict=True))


def test_saves_the_tables_and_nothing_else(device):
    q, k = normal(device, 5, 4, 8).requires_grad_(), normal(device, 5, 2, 8, seed=1)
    cos, sin = tables(device, 5, 8)
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        rope(q, k, cos.requires_grad_(), sin)
    assert set(saved) == {cos.data_ptr(), sin.data_ptr()}


def test_second_half_of_the_tables_is_not_read(device):
    q, k = heads(device, 5, 4, 2, 8)
    cos, sin = tables(device, 5, 8)
    want = rope(q, k, cos, sin)
    cos[:, 4:] = sin[:, 4:] = float("nan")
    assert all(torch.equal(a, b) for a, b in zip(rope(q, k, cos, sin), want, strict=True))


def test_no_tokens_and_nothing_to_rotate(device):
    empty = torch.zeros(0, 2, 8, device=device, requires_grad=True)
    q, k = rope(empty, empty, *tables(device, 0, 8))
    (q.sum() + k.sum()).backward()
    assert q.shape == (0, 2, 8) and empty.grad is not None
    rope_(empty.detach(), empty.detach(), *tables(device, 0, 8))
    q = normal(device, 3, 2, 8)
    none = torch.zeros(3, 0, device=device)
    rope_(q, q, none, none)
    assert torch.equal(q, normal(device, 3, 2, 8))
    assert torch.equal(rope(q, q, none, none)[0], q)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (((3, 2, 8), (3, 1, 8), (3, 9), (3, 9)), r"cos \(3, 9\)"),
        (((3, 2, 8), (3, 1, 8), (3, 10), (3, 10)), r"cos \(3, 10\)"),
        (((3, 2, 8), (4, 1, 8), (3, 8), (3, 8)), r"k \(4, 1, 8\)"),
        (((3, 2, 8), (3, 1, 6), (3, 6), (3, 6)), r"k \(3, 1, 6\)"),
        (((3, 2, 8), (3, 1, 8), (3, 8), (3, 6)), r"sin \(3, 6\)"),
        (((1, 3, 2, 8), (3, 1, 8), (3, 8), (3, 8)), r"q is \(1, 3, 2, 8\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(device, shapes, told):
    operands = [torch.zeros(shape, device=device) for shape in shapes]
    for turn in (rope, rope_):
        with pytest.raises(ValueError, match=told):
            turn(*operands)


def test_in_place_on_scattered_values_is_refused(device):
    q, k = torch.zeros(3, 8, 2, device=device).transpose(1, 2), torch.zeros(3, 1, 8, device=device)
    with pytest.raises(ValueError, match="adjacent"):
        rope_(q, k, *tables(device, 3, 8))
