"""The GLU fused with its adapters' products: numbers, roundings, layouts and what the wide cases fall back to."""

from typing import Any

import numpy as np
import pytest
import torch
from compiling import compile_for

from evenfall.kernels import glu_adapters
from evenfall.kernels.accuracy import Comparison, relative_rms_error
from evenfall.kernels.glu import glu_backward, glu_forward
from evenfall.kernels.glu_adapters import (
    glu_backward_gradients,
    glu_backward_gradients_reference,
    glu_forward_carry,
    glu_forward_carry_reference,
)

# numpy's, in the interpreter
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(1, 1), (3, 8), (37, 131), (150, 64), (18, 1100)]
FORWARD = ("product", "carried")
BACKWARD = ("dgate", "dup", "da", "db_gate", "db_up")
every_unit = pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def normal(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def forward_operands(device, tokens, columns, extra, dtype=torch.float32):
    """Views as a layer has them: gate beside up, rows beside what they carry themselves."""
    fused = normal(device, tokens, 2 * columns, dtype=dtype) * 2
    rows = normal(device, extra, columns + 16, dtype=dtype, seed=1)
    return fused[:, :columns], fused[:, columns:], rows[:, :columns]


def backward_operands(device, tokens, columns, ranks, dtype=torch.float32):
    """Views as a layer has them: dproduct, gate, up, u, and t of gate and up."""
    of_down, of_gate, of_up = ranks
    dproduct = normal(device, tokens, columns, dtype=dtype)
    fused = normal(device, tokens, 2 * columns, dtype=dtype, seed=1) * 2
    dy = normal(device, tokens, 24 + of_down, dtype=dtype, seed=2)
    x = normal(device, tokens, 40 + of_gate + of_up + 5, dtype=dtype, seed=3)
    t = x[:, 40 : 40 + of_gate], x[:, 40 + of_gate : 40 + of_gate + of_up]
    return dproduct, fused[:, :columns], fused[:, columns:], dy[:, 24:], t


def forward(gate, up, rows, activation):
    """`glu_forward_carry` into the buffer of a down projection: the product and what it carries."""
    columns, extra = gate.shape[1], rows.shape[0]
    buffer = torch.empty((len(gate), columns + extra), dtype=gate.dtype, device=gate.device)
    product, carried = buffer[:, :columns], buffer[:, columns:]
    glu_forward_carry(gate, up, product, rows, carried, activation)
    return product, carried


def backward(dproduct, gate, up, u, t, activation):
    """`glu_backward_gradients` into one buffer with room behind it."""
    columns = gate.shape[1]
    buffer = torch.empty((len(gate), 2 * columns + 16), dtype=gate.dtype, device=gate.device)
    dgate, dup = buffer[:, :columns], buffer[:, columns : 2 * columns]
    gradients = glu_backward_gradients(dproduct, gate, up, dgate, dup, u, t, activation)
    assert buffer[:, 2 * columns :].isnan().all()
    return dgate, dup, *gradients


def doubled(operands) -> list[Any]:
    return [tuple(x.double() for x in t) if isinstance(t, tuple) else t.double() for t in operands]


def assert_as_close_as_eager(names, got, eager, truth):
    for name, value, plain, exact in zip(names, got, eager, truth, strict=True):
        assert value.shape == exact.shape and value.dtype == plain.dtype, name
        errors = [relative_rms_error(x, exact) for x in (value, plain)]
        comparison = Comparison(
            tensor=name,
            error=errors[0],
            eager_error=errors[1],
            rounding=torch.finfo(value.dtype).eps / 2,
        )
        assert comparison.passed, comparison


def check_forward(operands: Any, activation):
    got = forward(*operands, activation=activation)
    eager = glu_forward_carry_reference(*operands, activation=activation)
    truth = glu_forward_carry_reference(*doubled(operands), activation=activation)
    assert_as_close_as_eager(FORWARD, got, eager, truth)
    return got


def check_backward(operands: Any, activation):
    got = backward(*operands, activation=activation)
    eager = glu_backward_gradients_reference(*operands, activation=activation)
    truth = glu_backward_gradients_reference(*doubled(operands), activation=activation)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in got[2:])
    assert_as_close_as_eager(BACKWARD, got, eager, truth)
    return got


@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_unit
def test_forward_is_as_close_as_eager(device, activation, shape, dtype):
    check_forward(forward_operands(device, shape[0], shape[1], 16, dtype), activation)


@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_unit
def test_backward_is_as_close_as_eager(device, activation, shape, dtype):
    check_backward(backward_operands(device, shape[0], shape[1], (16, 16, 16), dtype), activation)


@every_dtype
@pytest.mark.parametrize("extra", [0, 16, 48, 64, 80, 272])
def test_any_number_of_carried_columns(device, extra, dtype):
    check_forward(forward_operands(device, 150, 96, extra, dtype), "silu")


@every_dtype
@pytest.mark.parametrize("ranks", [(1, 2, 3), (8, 16, 0), (0, 4, 31), (32, 32, 32), (7, 33, 0), (0, 0, 0)], ids=str)
def test_any_ranks(device, ranks, dtype):
    check_backward(backward_operands(device, 70, 96, ranks, dtype), "silu")


@every_dtype
@every_unit
def test_product_and_gradients_are_the_bits_that_the_unfused_kernels_write(device, activation, dtype):
    gate, up, rows = forward_operands(device, 40, 300, 16, dtype)
    product, want = forward(gate, up, rows, activation)[0], torch.empty_like(gate)
    glu_forward(gate, up, want, activation)
    assert torch.equal(product, want)
    dproduct, gate, up, u, t = backward_operands(device, 40, 300, (4, 4, 4), dtype)
    dgate, dup, *_ = backward(dproduct, gate, up, u, t, activation)
    wanted = torch.empty_like(dgate), torch.empty_like(dup)
    glu_backward(dproduct, gate, up, *wanted, activation)
    assert torch.equal(dgate, wanted[0]) and torch.equal(dup, wanted[1])


@every_dtype
def test_what_is_multiplied_is_what_is_stored(device, dtype):
    """Rounded to the dtype, as a matmul that reads it back would see it."""
    gate, up, rows = forward_operands(device, 40, 300, 16, dtype)
    product, carried = forward(gate, up, rows, "silu")
    exact = product.double() @ rows.double().t()
    if dtype == torch.float32:
        assert relative_rms_error(carried, exact) < 1e-6
    else:
        assert (carried != exact.to(dtype)).float().mean().item() < 0.02
    dproduct, gate, up, u, t = backward_operands(device, 40, 300, (8, 8, 8), dtype)
    glu_forward(gate, up, product, "silu")
    dgate, dup, da, *db = backward(dproduct, gate, up, u, t, "silu")
    assert relative_rms_error(da, u.double().t() @ product.double()) < 1e-6
    for gradient, stored, carried in zip(db, (dgate, dup), t, strict=True):
        assert relative_rms_error(gradient, stored.double().t() @ carried.double()) < 1e-6


@pytest.mark.parametrize("tile", [(16, 16, 1), (32, 64, 4), (64, 32, 4)], ids=str)
@pytest.mark.parametrize("shares", [1, 2, 5])
def test_tiles_and_shares_do_not_change_the_numbers(device, monkeypatch, tile, shares):
    choice = glu_adapters._Tile(*tile)
    monkeypatch.setattr(glu_adapters, "_forward_tile", lambda *args: choice)
    monkeypatch.setattr(glu_adapters, "_backward_tile", lambda *args: choice)
    monkeypatch.setattr(glu_adapters, "_shares", lambda *args: shares)
    for tokens, columns in ((97, 100), (128, 64), (15, 7)):
        check_forward(forward_operands(device, tokens, columns, 16), "silu")
        check_backward(backward_operands(device, tokens, columns, (16, 3, 16)), "silu")


def test_the_same_operands_give_the_same_bits(device, monkeypatch):
    monkeypatch.setattr(glu_adapters, "_shares", lambda *args: 4)
    operands = backward_operands(device, 200, 48, (16, 16, 16), torch.bfloat16)
    first, second = (backward(*operands, activation="silu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_dtype
@every_unit
def test_forward_works_in_place(device, activation, dtype):
    gate, up, rows = forward_operands(device, 37, 131, 16, dtype)
    want = forward(gate, up, rows, activation)
    carried = torch.empty((37, 16), dtype=dtype, device=device)
    glu_forward_carry(gate, up, gate, rows, carried, activation)
    assert torch.equal(gate, want[0]) and torch.equal(carried, want[1])


@every_dtype
@pytest.mark.parametrize("swapped", [False, True])
def test_backward_works_in_place(device, swapped, dtype):
    dproduct, gate, up, u, t = backward_operands(device, 70, 131, (8, 8, 8), dtype)
    want = backward(dproduct, gate, up, u, t, "silu")
    dgate, dup = (dproduct, gate) if swapped else (gate, up)
    gradients = glu_backward_gradients(dproduct, gate, up, dgate, dup, u, t, "silu")
    for got, expected in zip((dgate, dup, *gradients), want, strict=True):
        assert torch.equal(got, expected)


def test_operands_are_left_alone(device):
    dproduct, gate, up, u, t = backward_operands(device, 40, 70, (8, 8, 8))
    operands = [dproduct, gate, up, u, *t]
    before = [x.clone() for x in operands]
    backward(dproduct, gate, up, u, t, "silu")
    forward(gate, up, dproduct[:16], "silu")
    assert all(torch.equal(a, b) for a, b in zip(operands, before, strict=True))


def test_nothing_is_written_beside_the_carried_columns(device):
    """Where the group's columns are not all the adapter's, as with a bias."""
    gate, up, rows = forward_operands(device, 20, 40, 16)
    buffer = torch.full((21, 64), 7.0, device=device)
    glu_forward_carry(gate, up, buffer[:20, :40], rows, buffer[:20, 40:56], "silu")
    assert (buffer[20] == 7).all() and (buffer[:20, 56:] == 7).all()
    assert not (buffer[:20, :56] == 7).any()


def test_rows_may_lie_farther_apart_than_32_bits_reach(device, monkeypatch):
    """In every block of rows but the first, and so in those that are loaded ahead."""
    tile = glu_adapters._Tile(16, 16, 4)
    monkeypatch.setattr(glu_adapters, "_forward_tile", lambda *args: tile)
    monkeypatch.setattr(glu_adapters, "_backward_tile", lambda *args: tile)
    monkeypatch.setattr(glu_adapters, "_shares", lambda *args: 1)
    distance = (1 << 27) + 16
    # Only what is touched of numpy's zeros takes memory.
    memory = torch.from_numpy(np.zeros(19 * distance + 64, np.int16)).to(device)
    gate, up = memory.view(torch.bfloat16).as_strided((2, 20, 16), (16, distance, 1))
    gate.copy_(normal(device, 20, 16, seed=1))
    up.copy_(normal(device, 20, 16, seed=2))
    near = gate.clone(), up.clone()
    rows = normal(device, 20, 16, dtype=torch.bfloat16)
    want = forward(*near, rows[:16], "silu")
    got = forward(gate, up, rows[:16], "silu")
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    dproduct, u, t = normal(device, 20, 16, dtype=torch.bfloat16), rows[:, :4], (rows, rows)
    want = backward(dproduct, *near, u, t, "silu")
    gradients = glu_backward_gradients(dproduct, gate, up, gate, up, u, t, "silu")
    for value, expected in zip((gate, up, *gradients), want, strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("tokens", [0, 5])
def test_no_rows_and_float64_take_plain_torch(device, tokens):
    dtype = torch.float64
    gate, up, rows = forward_operands(device, tokens, 24, 16, dtype)
    product, carried = forward(gate, up, rows, "gelu")
    want = glu_forward_carry_reference(gate, up, rows, "gelu")
    assert torch.equal(product, want[0]) and torch.equal(carried, want[1])
    operands = backward_operands(device, tokens, 24, (4, 8, 2), dtype)
    got = backward(*operands, activation="gelu")
    for value, expected in zip(got, glu_backward_gradients_reference(*operands, activation="gelu"), strict=True):
        assert torch.equal(value, expected)


def test_a_number_that_is_not_finite_reaches_every_sum_that_it_belongs_to(device):
    gate, up, rows = forward_operands(device, 20, 40, 16)
    gate[3, 5] = float("inf")
    up[3, 5] = float("nan")
    product, carried = forward(gate, up, rows, "silu")
    assert product[3, 5].isnan() and carried[3].isnan().all()
    assert carried.isnan().sum() == 16
    dproduct, gate, up, u, t = backward_operands(device, 20, 40, (4, 4, 4))
    dproduct[3, 5] = float("inf")
    _, _, da, db_gate, db_up = backward(dproduct, gate, up, u, t, "silu")
    assert da.isfinite().all()
    for db in (db_gate, db_up):
        assert not db[5].isfinite().any() and db.isfinite().sum() == 39 * 4


@pytest.mark.parametrize("rank", [16, 32])
@pytest.mark.parametrize("tokens", [1, 100, 2048, 16384])
@pytest.mark.parametrize("columns", [64, 8192, 14336])
def test_shares_fill_the_processors_without_costly_sums(device, monkeypatch, rank, tokens, columns):
    monkeypatch.setattr(glu_adapters, "processors", lambda device: 132)
    tile = glu_adapters._backward_tile(rank, torch.bfloat16)
    shares = glu_adapters._shares.__wrapped__(tokens, columns, 3 * rank, tile, device)
    assert 1 <= shares <= -(-tokens // tile.rows)
    programs = shares * -(-columns // tile.cols)
    if tokens == 16384 and columns > 64:
        slots = 132 * tile.resident
        assert programs / (-(-programs // slots) * slots) > 0.9
        assert 0.8 * 3 * rank * shares / tokens < 0.1


COMPILE = """
import torch
from evenfall.kernels import glu_adapters


def seen(name, asm):
    sass = asm["sass"]
    local = "LDL" in sass or "STL" in sass
    tensor_cores = "HMMA" in sass or "HGMMA" in sass
    print(name, local, tensor_cores, sass.count("MUFU.EX2"), "LDGSTS.E.BYPASS.128" in sass)


take_triton(glu_adapters)
columns = 14336
x, dx = (torch.zeros(128, 2 * columns + 32, dtype=torch.bfloat16) for _ in range(2))
out, rows = torch.zeros(128, columns + 16, dtype=torch.bfloat16), torch.zeros(16, columns).bfloat16()
halves = [(y[:, :columns], y[:, columns : 2 * columns]) for y in (x, dx)]
t = x[:, 2 * columns : 2 * columns + 16]
glu_adapters.processors = lambda device: 1
glu_adapters.glu_forward_carry(*halves[0], out[:, :columns], rows, out[:, columns:], "silu")
glu_adapters.glu_backward_gradients(out[:, :columns], *halves[0], *halves[1], t, (t, t), "silu")
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_compiled_kernels_take_each_activation_once_on_tensor_cores_without_spilling(tmp_path, capability):
    """8 and 16 values a thread: as many exponentials, not twice as many in two layouts; blocks are loaded ahead, 16
    bytes at a time."""
    pytest.importorskip("triton")
    assert compile_for(capability, COMPILE, tmp_path).splitlines() == [
        "_glu_forward_carry_kernel False True 8 True",
        "_glu_backward_gradients_kernel False True 16 True",
    ]
