"""NF4 dequantisation: the bits of bitsandbytes, whatever the shape, the scales and the window."""

import math
from typing import Any

import pytest
import torch
from bitsandbytes import functional as bnb
from bitsandbytes.nn import modules
from compiling import compile_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from evenfall.kernels import nf4
from evenfall.kernels.nf4 import NF4Weight, dequantize_nf4, dequantize_nf4_reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Params4bit: Any = modules.Params4bit  # its own types are those of a plain parameter
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def quantized(device, *shape, dtype=torch.bfloat16, seed=0, **options):
    generator = torch.Generator(device).manual_seed(seed)
    values = torch.randn(shape, generator=generator, device=device).to(dtype)
    return Params4bit(values, quant_type="nf4", **options).to(device)


def random_state(device, shape, *, dtype, block_size, nested, seed):
    """A state that no quantiser made: any byte, and scales over the whole range of fp16."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, device=device)

    def integers(size):
        return torch.randint(256, (size,), generator=generator, device=device, dtype=torch.uint8)

    total = math.prod(shape)
    blocks = -(-total // block_size)
    packed = integers(-(-total // 2)).view(-1, 1)
    spread = torch.exp2(2 * normal(blocks))
    state = bnb.QuantState(spread, torch.Size(shape), bnb.get_4bit_type("nf4", device), block_size, "nf4", dtype)
    if nested:
        code2 = bnb.create_dynamic_map().to(device)
        state2 = bnb.QuantState(spread[: -(-blocks // 256)].clone(), None, code2, 256, None)
        state2.dtype = torch.float32
        state.absmax, state.state2, state.nested = integers(blocks), state2, True
        state.offset = normal(1)[0]
    return Params4bit(packed, quant_state=state, quant_type="nf4", bnb_quantized=True)


def stock(parameter, dtype=None):
    """What bitsandbytes makes of a parameter.

    As one long row: its kernel for CPUs with AVX-512 multiplies by wrong scales where a row does
    not consist of whole blocks (its kernels for GPUs do not know of rows).
    """
    state = parameter.quant_state
    flat = bnb.QuantState(
        state.absmax,
        torch.Size((1, math.prod(state.shape))),
        state.code,
        state.blocksize,
        state.quant_type,
        dtype or state.dtype,
        state.offset,
        state.state2,
    )
    with torch.compiler.set_stance("force_eager"):
        return bnb.dequantize_4bit(parameter.data.view(-1, 1), flat).view(state.shape)


def check_bits(parameter, dtype=None):
    weight, want = NF4Weight.of(parameter), stock(parameter, dtype)
    for got in (dequantize_nf4(weight, dtype=dtype), dequantize_nf4_reference(weight, dtype)):
        assert got.dtype == want.dtype and got.shape == want.shape
        assert torch.equal(got, want), (got != want).sum()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_shape_and_scale_gives_the_bits_of_bitsandbytes(device, data):
    block_size = data.draw(st.sampled_from(BLOCK_SIZES))
    columns = data.draw(st.integers(1, 300) | st.integers(1, 4).map(lambda n: n * block_size), label="columns")
    shape = data.draw(st.integers(1, 12), label="rows"), columns
    parameter = random_state(
        device,
        shape,
        dtype=data.draw(st.sampled_from(DTYPES)),
        block_size=block_size,
        nested=data.draw(st.booleans(), label="nested"),
        seed=data.draw(st.integers(0, 1 << 30)),
    )
    check_bits(parameter)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(21, 4096), (9, 14336), (70, 896), (5, 4304)], ids=str)
def test_shapes_of_real_models_give_the_bits_of_bitsandbytes(device, shape, dtype, nested):
    check_bits(quantized(device, *shape, dtype=dtype, compress_statistics=nested))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_dtypes_than_the_quantised_one_can_be_asked_for(device, dtype):
    parameter = quantized(device, 4, 128, dtype=torch.float16)
    assert dequantize_nf4(NF4Weight.of(parameter)).dtype == torch.float16
    check_bits(parameter, dtype)


def test_every_code_in_both_halves_of_a_byte(device):
    parameter = quantized(device, 8, 64, dtype=torch.float32, compress_statistics=False)
    parameter.data.copy_(torch.arange(256, device=device).view(-1, 1))
    parameter.quant_state.absmax.fill_(1.0)
    out = dequantize_nf4(NF4Weight.of(parameter)).view(256, 2)
    codes = torch.arange(256, device=device)
    table = bnb.get_4bit_type("nf4", device)
    assert torch.equal(out[:, 0], table[codes // 16]) and torch.equal(out[:, 1], table[codes % 16])
    assert torch.equal(dequantize_nf4_reference(NF4Weight.of(parameter)).view(256, 2), out)


@pytest.mark.parametrize("columns", [192, 100])
def test_scales_are_rounded_after_the_product_and_after_the_sum(device, columns):
    parameter = random_state(device, (60, columns), dtype=torch.float32, block_size=32, nested=True, seed=3)
    state = parameter.quant_state
    state.offset = torch.tensor(-0.7, device=device)
    check_bits(parameter)
    assert state.state2 is not None
    # Had the product not been rounded (a fused multiply-add), other scales would have come out.
    absmax2 = state.state2.absmax.repeat_interleave(256)[: state.absmax.numel()]
    product = state.state2.code[state.absmax.int()].double() * absmax2
    rounded_twice, rounded_once = product.float() + state.offset, (product + state.offset).float()
    assert (rounded_twice != rounded_once).float().mean() > 0.05 and (rounded_twice < 0).any()


@pytest.mark.parametrize("columns", [128, 90])
def test_window_of_a_wider_matrix_is_written_and_nothing_beside_it(device, columns):
    weight = NF4Weight.of(quantized(device, 5, columns))
    matrix = torch.full((9, columns + 24), 7.0, dtype=torch.bfloat16, device=device)
    out = matrix[2:7, :columns]
    assert dequantize_nf4(weight, out) is out
    assert torch.equal(out, dequantize_nf4_reference(weight))
    out.fill_(7.0)
    assert (matrix == 7.0).all()


def test_several_weights_fill_the_rows_of_one_matrix(device):
    parameters = [quantized(device, rows, 192, seed=rows) for rows in (6, 2, 3)]
    matrix = torch.empty((11, 200), dtype=torch.bfloat16, device=device)
    rows = 0
    for parameter in parameters:
        weight = NF4Weight.of(parameter)
        dequantize_nf4(weight, out=matrix[rows : rows + weight.shape[0], :192])
        rows += weight.shape[0]
    assert torch.equal(matrix[:, :192], torch.cat([stock(p) for p in parameters]))


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32], ids=str)
def test_codes_stored_as_another_dtype_are_the_same_bytes(device, storage):
    plain, other = (quantized(device, 6, 128, quant_storage=s) for s in (torch.uint8, storage))
    assert other.dtype == storage
    got = dequantize_nf4(NF4Weight.of(other))
    assert torch.equal(got, dequantize_nf4(NF4Weight.of(plain)))


def test_codes_at_an_odd_address_are_read_as_bytes(device):
    parameter = quantized(device, 3, 128)
    weight = NF4Weight.of(parameter)
    room = torch.empty(weight.packed.numel() + 1, dtype=torch.uint8, device=device)
    room[1:] = weight.packed
    nested = {n: getattr(weight, n) for n in ("absmax2", "code2", "offset")}
    moved = NF4Weight(packed=room[1:], absmax=weight.absmax, code=weight.code, shape=weight.shape, **nested)
    assert nf4.words_of(weight) is not None and nf4.words_of(moved) is None
    assert torch.equal(dequantize_nf4(moved), stock(parameter))


def test_tensors_are_held_by_reference(device):
    parameter = quantized(device, 4, 128, compress_statistics=False)
    weight = NF4Weight.of(parameter)
    before = dequantize_nf4(weight)
    parameter.quant_state.absmax.mul_(2)
    parameter.data.bitwise_not_()
    assert torch.equal(dequantize_nf4(weight), stock(parameter))
    assert not torch.equal(dequantize_nf4(weight), before)


@pytest.mark.parametrize("columns", [128, 100])
def test_one_launch_is_all_and_nothing_is_read_back(device, monkeypatch, columns):
    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **options: seen.append("launch")

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    for name in ("_dequantize_nf4_kernel", "_dequantize_nf4_any_kernel"):
        monkeypatch.setattr(nf4, name, Kernel())
    parameter = quantized(device, 8, columns)
    with Watch():
        dequantize_nf4(NF4Weight.of(parameter))
    assert seen.count("launch") == 1
    assert set(seen) <= {"launch", "empty", "fill_", "detach", "alias", "view", "reshape"}, seen


def test_weight_without_rows(device):
    empty = torch.empty(0, dtype=torch.uint8, device=device)
    code = bnb.get_4bit_type("nf4", device)
    weight = NF4Weight(packed=empty, absmax=torch.empty(0, device=device), code=code, shape=(0, 64))
    assert dequantize_nf4(weight).shape == (0, 64)


def test_other_dtypes_take_the_reference(device):
    weight = NF4Weight.of(quantized(device, 4, 64, dtype=torch.float32))
    got = dequantize_nf4(weight, dtype=torch.float64)
    assert torch.equal(got, dequantize_nf4(weight).double())


@settings(max_examples=200)
@given(
    rows=st.integers(1, 200_000),
    columns=st.sampled_from([64, 192, 896, 2560, 3584, 4096, 4864, 11008, 14336, 18944, 28672]),
    block_size=st.sampled_from(BLOCK_SIZES),
)
def test_tiles_divide_rows_of_weights_into_whole_blocks(rows, columns, block_size):
    pytest.importorskip("triton")
    columns = math.lcm(columns, block_size)
    weight = NF4Weight.__new__(NF4Weight)  # of a size that nobody wants to allocate
    for name, value in (("shape", (rows, columns)), ("block_size", block_size)):
        object.__setattr__(weight, name, value)
    object.__setattr__(weight, "packed", torch.empty(0))
    tile_rows, tile_columns, warps = nf4._tile(weight)
    assert columns % tile_columns == 0 and tile_columns % block_size == 0
    assert tile_rows * tile_columns <= 8192 and tile_rows < 2 * rows
    assert warps in (1, 2, 4) and tile_rows * tile_columns <= 64 * 32 * warps


def test_only_quantised_nf4_parameters_are_taken(device):
    with pytest.raises(TypeError, match=r"takes a bitsandbytes.nn.Params4bit, not Parameter"):
        NF4Weight.of(torch.nn.Parameter(torch.ones(4, 64)))
    with pytest.raises(ValueError, match="not quantised yet"):
        NF4Weight.of(Params4bit(torch.ones(4, 64), quant_type="nf4"))
    with pytest.raises(ValueError, match="the codes are fp4, not nf4"):
        NF4Weight.of(Params4bit(torch.ones(4, 64), quant_type="fp4").to(device))
    with pytest.raises(ValueError, match="needs two dimensions"):
        NF4Weight.of(quantized(device, 2, 4, 64))
    repacked = quantized(device, 4, 64)
    repacked.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="repacked by bitsandbytes"):
        NF4Weight.of(repacked)


def test_tensors_that_do_not_fit_together_are_refused(device):
    parameter = quantized(device, 4, 128)
    state = parameter.quant_state
    for size in (48, 0, 4):
        state.blocksize = size
        with pytest.raises(ValueError, match=f"must be a power of two from 8, not {size}"):
            NF4Weight.of(parameter)
    state.blocksize = 128
    with pytest.raises(ValueError, match=r"absmax must be 4 adjacent values of torch\.uint8"):
        NF4Weight.of(parameter)
    state.blocksize, state.offset = 64, None
    with pytest.raises(ValueError, match="double quantisation needs offset"):
        NF4Weight.of(parameter)
    state.offset = torch.tensor(0.5, device=device, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"offset must be 1 adjacent values of torch\.float32"):
        NF4Weight.of(parameter)
    state.offset = torch.tensor(0.5, device="meta")
    with pytest.raises(ValueError, match="offset is on meta, the codes are on"):
        NF4Weight.of(parameter)


def test_unfit_windows_are_refused(device):
    weight = NF4Weight.of(quantized(device, 4, 64))
    out = torch.zeros(4, 64, dtype=torch.float16, device=device)
    with pytest.raises(ValueError, match=r"out is \(3, 64\)"):
        dequantize_nf4(weight, out[:3])
    with pytest.raises(ValueError, match=r"needs \(4, 64\) torch.bfloat16"):
        dequantize_nf4(weight, out, torch.bfloat16)
    with pytest.raises(ValueError, match="columns are 4 apart"):
        dequantize_nf4(weight, out.view(64, 4).t())
    with pytest.raises(ValueError, match="on meta"):
        dequantize_nf4(weight, out.to("meta"))


COMPILE = """
from evenfall.kernels import nf4


def seen(name, asm):
    code = asm["sass"]
    print(name, *("FFMA" in code, "STL" in code, "STG.E.128" in code))


take_triton(nf4)
for columns in (4096, 96):
    packed = torch.zeros(256 * columns // 2, dtype=torch.uint8)
    absmax = torch.zeros(4 * columns, dtype=torch.uint8)  # 256 blocks for each absmax2
    weight = nf4.NF4Weight(
        packed=packed, absmax=absmax, code=torch.zeros(16), shape=(256, columns),
        absmax2=torch.zeros(-(-columns // 64)), code2=torch.zeros(256), offset=torch.zeros(1),
    )
    nf4.dequantize_nf4(weight, torch.zeros(256, columns + 64, dtype=torch.bfloat16)[:, :columns])
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_machine_code_fuses_nothing_spills_nothing_and_stores_16_bytes(tmp_path, capability):
    pytest.importorskip("triton")
    assert compile_for(capability, COMPILE, tmp_path).splitlines() == [
        "_dequantize_nf4_kernel False False True",
        "_dequantize_nf4_any_kernel False False False",
    ]
