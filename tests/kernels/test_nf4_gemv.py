"""Products of a few rows with an NF4 weight: no further from the truth than dequantise-and-multiply."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bitsandbytes.nn import modules
from compiling import compile_for
from hypothesis import given, settings
from hypothesis import strategies as st

from evenfall.kernels import nf4_gemv
from evenfall.kernels.accuracy import Comparison, relative_rms_error
from evenfall.kernels.nf4 import NF4Weight, dequantize_nf4_reference
from evenfall.kernels.nf4_gemv import MAX_ROWS, gemv_nf4, gemv_nf4_reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Params4bit: Any = modules.Params4bit  # its own types are those of a plain parameter


def normal(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def quantized(device, *shape, seed=9, **options):
    values = normal(device, *shape, seed=seed)
    return NF4Weight.of(Params4bit(values, quant_type="nf4", **options).to(device))


def check(x, weight, **operands):
    """Judge the kernel by eager in the same dtype, both against float64."""
    got = gemv_nf4(x, weight, **operands)
    eager = gemv_nf4_reference(x, weight, **operands)
    truth = F.linear(x.double(), dequantize_nf4_reference(weight, torch.float64))
    if (bias := operands.get("bias")) is not None:
        truth = truth + bias.double()
    if (lora_b := operands.get("lora_b")) is not None:
        update = F.linear(operands["xa"].double(), lora_b.double())
        truth = truth + operands.get("scaling", 1.0) * update
    assert got.dtype == x.dtype and got.shape == truth.shape and got.is_contiguous()
    errors = [relative_rms_error(value, truth) for value in (got, eager)]
    comparison = Comparison(tensor="out", error=errors[0], eager_error=errors[1], rounding=torch.finfo(x.dtype).eps / 2)
    assert comparison.passed, comparison
    return got


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 64), (37, 192), (9, 896), (6, 4096), (5, 1000), (21, 130), (7, 33)], ids=str)
def test_one_row_is_as_close_as_eager(device, shape, dtype, nested):
    weight = quantized(device, *shape, compress_statistics=nested)
    check(normal(device, 1, shape[1], dtype=dtype), weight)


@pytest.mark.parametrize("m", range(1, MAX_ROWS + 1))
@pytest.mark.parametrize("columns", [1088, 70])
def test_up_to_eight_rows_with_bias_and_adapter(device, m, columns):
    weight = quantized(device, 11, columns)
    operands: dict[str, Any] = {
        "bias": normal(device, 11, seed=1) * 10,
        "xa": normal(device, m, 5, seed=2) * 10,
        "lora_b": normal(device, 11, 5, seed=3),
        "scaling": 2.5,
    }
    check(normal(device, m, columns), weight, **operands)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_shape_is_as_close_as_eager(device, data):
    block_size = data.draw(st.sampled_from([32, 64, 128, 1024, 4096]))
    columns = data.draw(
        st.integers(1, 200) | st.integers(1, 9).map(lambda n: n * block_size % 8192),
        label="columns",
    )
    rows, m = data.draw(st.integers(1, 40)), data.draw(st.integers(1, MAX_ROWS), label="m")
    dtype, rank = data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(1, 20), label="rank")
    seed = data.draw(st.integers(0, 1 << 30))
    weight = quantized(device, rows, max(1, columns), seed=seed, blocksize=block_size)
    operands: dict[str, Any] = {}
    if data.draw(st.booleans(), label="bias"):
        operands["bias"] = normal(device, rows, dtype=dtype, seed=1)
    if data.draw(st.booleans(), label="adapter"):
        operands["xa"] = normal(device, m, rank, dtype=dtype, seed=2)
        operands["lora_b"] = normal(device, rows, rank, dtype=dtype, seed=3)
    check(normal(device, m, weight.shape[1], dtype=dtype, seed=seed + 1), weight, **operands)


@pytest.mark.parametrize("processors", [1, 2, 1000])
@pytest.mark.parametrize("m", [1, 2, 8])
def test_more_and_fewer_rows_a_program_give_the_same_product(device, monkeypatch, processors, m):
    monkeypatch.setattr(nf4_gemv, "processors", lambda device: processors)
    weight = quantized(device, 26, 2048)
    assert nf4_gemv._tile(weight, m)[0] == {1: 4, 2: 2, 1000: 1}[processors]
    check(normal(device, m, 2048, dtype=torch.bfloat16), weight)


@pytest.mark.parametrize("m", [1, 2, 4, 8])
@pytest.mark.parametrize("columns", [64, 192, 896, 3584, 4096, 4864, 11008, 14336, 18944])
def test_steps_fit_the_registers_and_need_masks_only_where_they_would_be_short(device, columns, m):
    pytest.importorskip("triton")
    weight = quantized(device, 1, columns)
    rows, step = nf4_gemv._tile(weight, m)
    assert step % 64 == 0 and m * rows * step <= 8192
    assert columns % step == 0 or step == min(1024, 8192 // (m * rows)) or step >= columns


def test_adapter_and_bias_may_have_other_dtypes(device):
    weight = quantized(device, 12, 128)
    operands: dict[str, Any] = {
        "bias": normal(device, 12, dtype=torch.float16),
        "xa": normal(device, 2, 16, dtype=torch.float32, seed=2),
        "lora_b": normal(device, 12, 16, dtype=torch.float32, seed=3),
        "scaling": 0.5,
    }
    check(normal(device, 2, 128, dtype=torch.bfloat16), weight, **operands)


def test_adapter_is_added_before_the_one_rounding(device):
    """Base and adapter nearly cancel: a base rounded to bf16 first would leave nothing but noise."""
    weight = quantized(device, 16, 256)
    x = normal(device, 1, 256, dtype=torch.bfloat16)
    base = F.linear(x.double(), dequantize_nf4_reference(weight, torch.float64))
    lora_b = (-base.t() * (1 + 2**-9)).float()
    got = gemv_nf4(x, weight, xa=torch.ones(1, 1, device=device), lora_b=lora_b)
    torch.testing.assert_close(got.double(), base * -(2**-9), rtol=0.05, atol=1e-5)


@pytest.mark.parametrize("layout", ["slice", "transposed", "expanded", "three dimensions", "vector"])
def test_strides_and_leading_dimensions_do_not_change_the_numbers(device, layout):
    weight = quantized(device, 10, 128)
    x = {
        "slice": normal(device, 3, 400)[:, 17:145],
        "transposed": normal(device, 128, 3).t(),
        "expanded": normal(device, 1, 128).expand(3, 128),
        "three dimensions": normal(device, 128, 2, 3).permute(1, 2, 0),
        "vector": normal(device, 128),
    }[layout]
    xa = normal(device, 4, *x.shape[:-1], seed=2).movedim(0, -1)
    operands: dict[str, Any] = {"xa": xa, "lora_b": normal(device, 4, 10, seed=3).t()}
    got = check(x, weight, **operands)
    operands = {name: t.contiguous() for name, t in operands.items()}
    assert torch.equal(got, gemv_nf4(x.contiguous(), weight, **operands))


def test_same_input_gives_the_same_bits_and_rows_do_not_mix(device):
    weight, x = quantized(device, 30, 4160), normal(device, 8, 4160, dtype=torch.bfloat16)
    first = gemv_nf4(x, weight)
    assert torch.equal(gemv_nf4(x, weight), first)
    x[3] = math.nan
    second = gemv_nf4(x, weight)
    assert second[3].isnan().all()
    keep = torch.arange(8, device=device) != 3
    assert torch.equal(second[keep], first[keep])


def test_no_rows(device):
    weight = quantized(device, 10, 128)
    assert gemv_nf4(torch.zeros(2, 0, 128, device=device), weight).shape == (2, 0, 10)


def test_other_dtypes_take_the_reference(device):
    weight, x = quantized(device, 10, 128), normal(device, 2, 128).double()
    want = F.linear(x, dequantize_nf4_reference(weight, torch.float64))
    assert torch.equal(gemv_nf4(x, weight), want)


def test_operands_that_require_gradients_are_refused_where_they_would_be_lost(device):
    weight, x = quantized(device, 10, 128), normal(device, 1, 128)
    lora_b = normal(device, 10, 4).requires_grad_()
    adapter: dict[str, Any] = {"xa": normal(device, 1, 4), "lora_b": lora_b}
    for kwargs, row in (({}, x.clone().requires_grad_()), (adapter, x)):
        with pytest.raises(RuntimeError, match="has no backward"):
            gemv_nf4(row, weight, **kwargs)
        with torch.no_grad():
            assert gemv_nf4(row, weight, **kwargs).shape == (1, 10)


def test_unfit_operands_are_refused(device):
    weight, x = quantized(device, 10, 128), normal(device, 2, 128)
    xa, lora_b = normal(device, 2, 4), normal(device, 10, 4)
    cases: list[tuple[torch.Tensor, dict[str, Any], str]] = [
        (x[:, :64], {}, r"x is \(2, 64\), weight is \(10, 128\)"),
        (x[0, 0], {}, r"x is \(\)"),
        (normal(device, 3, 3, 128), {}, "x has 9 rows, takes at most 8"),
        (x, {"bias": xa}, r"bias is \(2, 4\)"),
        (x, {"xa": xa}, "xa and lora_b go together"),
        (x, {"lora_b": lora_b}, "xa and lora_b go together"),
        (x, {"xa": xa[:1], "lora_b": lora_b}, r"xa is \(1, 4\)"),
        (x, {"xa": xa, "lora_b": lora_b.t()}, r"lora_b is \(4, 10\)"),
    ]
    for row, kwargs, message in cases:
        with pytest.raises(ValueError, match=message):
            gemv_nf4(row, weight, **kwargs)


COMPILE = """
from evenfall.kernels import nf4, nf4_gemv


def seen(name, asm):
    code = asm["sass"]
    print(*("STL" in code, "SHFL.IDX" in code, "LDGSTS.E.BYPASS.128" in code))


take_triton(nf4_gemv)
packed = torch.zeros(4096 * 512, dtype=torch.uint8)
absmax = torch.zeros(4096 * 16, dtype=torch.uint8)
weight = nf4.NF4Weight(
    packed=packed, absmax=absmax, code=torch.zeros(16), shape=(4096, 1024),
    absmax2=torch.zeros(256), code2=torch.zeros(256), offset=torch.zeros(1),
)
for m in (1, 2, 3, 8):
    x, lora_b = torch.zeros(m, 1024, dtype=torch.bfloat16), torch.zeros(4096, 16)
    nf4_gemv.gemv_nf4(x, weight, xa=x[:, :16], lora_b=lora_b)
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_machine_code_spills_nothing_and_copies_ahead_16_bytes_at_a_time(tmp_path, capability):
    pytest.importorskip("triton")
    assert compile_for(capability, COMPILE, tmp_path).splitlines() == ["False True True"] * 4
