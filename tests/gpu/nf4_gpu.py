"""Check and time NF4 dequantisation and GEMV on this GPU: ``python tests/gpu/nf4_gpu.py``.

First the bits: every projection of an 8B Llama, single and double quantised, dequantised in each
dtype, plainly and into a window of a wider matrix, must equal what bitsandbytes makes of it. Then
the products: m = 1 to 8 rows, with bias and adapter, judged by eager against float64. Only what is
right is timed.

Times are medians over replays of CUDA graphs that call an op on as many copies of a weight as
exceed the L2 cache several times: no launch cost, no cached weights, as in training and decoding.
"floor" is the time in which a device copy, measured in the same run, moves the bytes that the op
must read and write once; "of floor" is the share of that speed reached. "bnb" is bitsandbytes: its
three launches for a double-quantised weight, and its own product for few rows.

``--sweep`` times other tiles as well, best last. Exits with 1 if any number is wrong, and with 2
where there is no GPU.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from evenfall.kernels import nf4, nf4_gemv
from evenfall.kernels.accuracy import Comparison, relative_rms_error
from evenfall.kernels.backend import INTERPRETED, KERNEL_DTYPES, triton_runs_on
from evenfall.kernels.nf4 import NF4Weight, dequantize_nf4, dequantize_nf4_reference
from evenfall.kernels.nf4_gemv import gemv_nf4, gemv_nf4_reference

PROJECTIONS = {
    "q, o": (4096, 4096),
    "k, v": (1024, 4096),
    "gate, up": (14336, 4096),
    "down": (4096, 14336),
}
"""Of Llama 3 8B, [out, in]."""

EXTRA = 64
"""Columns that the adapter takes beside the weight, as in ``kernels/qlora.py``."""

L2_TIMES = 6
COPY_BYTES = 1 << 30


def quantized(shape: tuple[int, int], dtype: torch.dtype, nested: bool, device: torch.device) -> Any:
    from bitsandbytes.nn import modules

    parameter: Any = modules.Params4bit
    generator = torch.Generator(device).manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator, device=device).mul_(0.02).to(dtype)
    return parameter(values, quant_type="nf4", compress_statistics=nested).to(device)


def check_bits(device: torch.device) -> bool:
    """Print one line for each projection, dtype and kind of quantisation; return whether all
    equal."""
    from bitsandbytes import functional

    print(f"{'weight':10}{'shape':>14}{'dtype':>10}{'nested':>8}  bits that differ: plain, window")
    good = True
    for name, shape in PROJECTIONS.items():
        for dtype, nested in itertools.product(KERNEL_DTYPES, (True, False)):
            parameter = quantized(shape, dtype, nested, device)
            want = functional.dequantize_4bit(parameter.data, parameter.quant_state)
            weight = NF4Weight.of(parameter)
            plain = dequantize_nf4(weight)
            matrix = torch.full((shape[0] + 1, shape[1] + EXTRA), 7.0, dtype=dtype, device=device)
            window = dequantize_nf4(weight, matrix[:-1, : shape[1]])
            differ = [int((got != want).sum()) for got in (plain, window)]
            beside = bool((matrix[-1] == 7).all()) and bool((matrix[:, shape[1] :] == 7).all())
            fine = differ == [0, 0] and beside
            good &= fine
            kind = str(dtype).removeprefix("torch.")
            size = f"{shape[0]}x{shape[1]}"
            verdict = "" if fine else "  FAILED" + ("" if beside else ", wrote beside the window")
            print(f"{name:10}{size:>14}{kind:>10}{nested!s:>8}  {differ[0]}, {differ[1]}{verdict}")
    # Rows that do not consist of whole blocks take the other kernel.
    for shape, dtype in itertools.product([(1152, 4304), (77, 1001)], KERNEL_DTYPES):
        parameter = quantized(shape, dtype, True, device)
        want = functional.dequantize_4bit(parameter.data, parameter.quant_state)
        fine = torch.equal(dequantize_nf4(NF4Weight.of(parameter)), want.view(shape))
        good &= fine
        if not fine:
            print(f"{shape} {dtype}: FAILED")
    print("all bits equal\n" if good else "")
    return good


def check_products(device: torch.device) -> bool:
    """Judge the GEMV in each dtype; print the worst of each shape and return whether all passed."""
    print(f"{'weight':10}{'dtype':>10}{'m':>3}{'error':>12}{'eager':>12}")
    good = True
    for name, shape in [*PROJECTIONS.items(), ("odd", (501, 1001)), ("masked", (4099, 896))]:
        for dtype in KERNEL_DTYPES:
            weight = NF4Weight.of(quantized(shape, dtype, True, device))
            truth_weight = dequantize_nf4_reference(weight, torch.float64)
            for m in (1, 2, 3, 8):
                generator = torch.Generator(device).manual_seed(m)

                def normal(*size: int, generator: torch.Generator = generator) -> Tensor:
                    return torch.randn(size, generator=generator, device=device)

                x, bias = normal(m, shape[1]).to(dtype), normal(shape[0]).to(dtype)
                xa, lora_b = normal(m, 16).to(dtype), normal(shape[0], 16)
                got = gemv_nf4(x, weight, bias=bias, xa=xa, lora_b=lora_b, scaling=2.0)
                eager = gemv_nf4_reference(x, weight, bias, xa, lora_b, 2.0)
                truth = F.linear(x.double(), truth_weight, bias.double())
                truth = truth + 2.0 * F.linear(xa.double(), lora_b.double())
                error, eager_error = (relative_rms_error(value, truth) for value in (got, eager))
                result = Comparison(
                    tensor="out",
                    error=error,
                    eager_error=eager_error,
                    rounding=torch.finfo(dtype).eps / 2,
                )
                good &= result.passed
                if m in (1, 8) or not result.passed:
                    kind = str(dtype).removeprefix("torch.")
                    verdict = "" if result.passed else "  FAILED"
                    print(f"{name:10}{kind:>10}{m:3}{error:12.2e}{eager_error:12.2e}{verdict}")
    print()
    return good


def microseconds(calls: Sequence[Callable[[], object]], replays: int = 30) -> float:
    """Median time of one call, from replays of a graph that makes them all."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:3]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(replays):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:]) / len(calls) * 1e3


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a microsecond, read plus written."""
    # A kernel: a plain copy in a graph becomes the copy engine's, at two thirds of the speed.
    source = torch.empty(COPY_BYTES // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return COPY_BYTES / microseconds([lambda: torch.neg(source, out=target)] * 4)


def copies_of(parameter: Any) -> tuple[list[NF4Weight], list[Any]]:
    """A weight several times, as ours and as bitsandbytes' (codes, state)."""
    device = parameter.device
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    count = max(2, -(-L2_TIMES * cache // parameter.numel()))
    weight, state = NF4Weight.of(parameter), parameter.quant_state
    ours, theirs = [], []
    for _ in range(count):
        other = dataclasses.replace(weight, packed=weight.packed.clone(), absmax=weight.absmax.clone())
        own = copy.copy(state)
        own.absmax = other.absmax
        ours.append(other)
        theirs.append((other.packed.view(-1, 1), own))
    return ours, theirs


def weight_bytes(weight: NF4Weight) -> int:
    scales = 0 if weight.absmax2 is None else weight.absmax2.nbytes
    return weight.packed.nbytes + weight.absmax.nbytes + scales


def time_dequantize(device: torch.device, bandwidth: float) -> None:
    from bitsandbytes import functional

    print(f"{'dequantise':12}{'shape':>14}{'dtype':>10}{'us':>9}{'window':>9}{'bnb':>9}", end="")
    print(f"{'times':>7}{'floor':>9}{'of floor':>10}")
    for name, shape in PROJECTIONS.items():
        for dtype in (torch.bfloat16, torch.float32):
            ours, theirs = copies_of(quantized(shape, dtype, True, device))
            out = torch.empty(shape, dtype=dtype, device=device)
            matrix = torch.empty((shape[0], shape[1] + EXTRA), dtype=dtype, device=device)
            window = matrix[:, : shape[1]]

            def plain(w: NF4Weight, out: Tensor = out) -> Callable[[], object]:
                return lambda: dequantize_nf4(w, out)

            def stock(pair: Any, out: Tensor = out) -> Callable[[], object]:
                return lambda: functional.dequantize_4bit(*pair, out=out)

            floor = (weight_bytes(ours[0]) + out.nbytes) / bandwidth
            us = microseconds([plain(w) for w in ours])
            us_window = microseconds([plain(w, window) for w in ours])
            us_stock = microseconds([stock(pair) for pair in theirs])
            size, kind = f"{shape[0]}x{shape[1]}", str(dtype).removeprefix("torch.")
            print(f"{name:12}{size:>14}{kind:>10}{us:9.1f}{us_window:9.1f}{us_stock:9.1f}", end="")
            print(f"{us_stock / us:7.2f}{floor:9.1f}{floor / us:10.0%}")
    print()


def time_gemv(device: torch.device, bandwidth: float) -> None:
    """bf16, with a rank-16 adapter in the column "adapter"; "two steps" is dequantise_nf4 and a
    matmul, which wins from some m on."""
    import bitsandbytes

    matmul_4bit: Any = bitsandbytes.matmul_4bit  # pyright: ignore[reportPrivateImportUsage]
    print(
        f"{'GEMV':12}{'shape':>14}{'m':>4}{'us':>9}{'adapter':>9}{'bnb':>9}{'two steps':>11}",
        end="",
    )
    print(f"{'times':>7}{'floor':>9}{'of floor':>10}")
    for name, shape in PROJECTIONS.items():
        ours, theirs = copies_of(quantized(shape, torch.bfloat16, True, device))
        out = torch.empty(shape, dtype=torch.bfloat16, device=device)
        lora_b = torch.randn(shape[0], 16, device=device)
        for m in (1, 2, 4, 8):
            x = torch.randn(m, shape[1], device=device).bfloat16()
            xa = torch.randn(m, 16, device=device).bfloat16()

            def one(w: NF4Weight, x: Tensor = x, **kwargs: Any) -> Callable[[], object]:
                return lambda: gemv_nf4(x, w, **kwargs)

            def stock(pair: Any, x: Tensor = x) -> Callable[[], object]:
                return lambda: matmul_4bit(x, pair[0], pair[1])

            def two(w: NF4Weight, x: Tensor = x, out: Tensor = out) -> Callable[[], object]:
                return lambda: F.linear(x, dequantize_nf4(w, out))

            floor = (weight_bytes(ours[0]) + x.nbytes + 2 * m * shape[0]) / bandwidth
            us = microseconds([one(w) for w in ours])
            adapter = microseconds([one(w, xa=xa, lora_b=lora_b, scaling=2.0) for w in ours])
            us_stock = microseconds([stock(pair) for pair in theirs])
            us_two = microseconds([two(w) for w in ours])
            print(f"{name:12}{f'{shape[0]}x{shape[1]}':>14}{m:4}{us:9.2f}{adapter:9.2f}", end="")
            print(f"{us_stock:9.2f}{us_two:11.2f}{us_stock / us:7.2f}{floor:9.2f}{floor / us:10.0%}")
    print()


def sweep(device: torch.device) -> None:
    """Time other tiles of both kernels than their modules choose."""
    for name, shape in PROJECTIONS.items():
        ours, _ = copies_of(quantized(shape, torch.bfloat16, True, device))
        out = torch.empty(shape, dtype=torch.bfloat16, device=device)
        results = []
        for tile, warps in itertools.product((2048, 4096, 8192, 16384), (1, 2, 4, 8)):
            if not 16 <= tile // (32 * warps) <= 128 or shape[1] % min(tile, 2048):
                continue
            cols = next(c for c in (tile, tile // 2, tile // 4, tile // 8) if shape[1] % c == 0)
            choice = tile // cols, cols, warps
            with mock.patch.object(nf4, "_tile", lambda weight, choice=choice: choice):
                us = microseconds([lambda w=w, out=out: dequantize_nf4(w, out) for w in ours], 10)
            results.append((us, f"{choice[0]}x{cols}, {warps} warps"))
        report("dequantise", name, results)
        for m in (1, 4, 8):
            x = torch.randn(m, shape[1], device=device).bfloat16()
            results = []
            for rows, cols in itertools.product((1, 2, 4, 8), (256, 512, 1024, 2048)):
                if not 2048 <= m * rows * cols <= 16384 or shape[1] % cols:
                    continue
                choice = rows, cols
                with (
                    mock.patch.object(nf4_gemv, "_tile", lambda weight, m, choice=choice: choice),
                    mock.patch.object(nf4_gemv, "_STEP", 2048),
                ):
                    us = microseconds([lambda w=w, x=x: gemv_nf4(x, w) for w in ours], 10)
                results.append((us, f"{rows} rows, steps of {cols}"))
            report(f"GEMV m = {m}", name, results)


def report(what: str, name: str, results: list[tuple[float, str]]) -> None:
    for us, choice in sorted(results, reverse=True)[-4:]:
        print(f"{what:14}{name:10}{choice:28}{us:9.2f} us")


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description="Check and time the NF4 kernels on this GPU.")
    parser.add_argument("--sweep", action="store_true", help="time other tiles as well")
    args = parser.parse_args()
    if not torch.cuda.is_available() or INTERPRETED or not triton_runs_on("cuda"):
        print("needs a GPU and Triton, and TRITON_INTERPRET unset", file=sys.stderr)
        return 2
    import bitsandbytes
    import triton

    device = torch.device("cuda", torch.cuda.current_device())
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{torch.cuda.get_device_name(device)}, {versions}, bnb {bitsandbytes.__version__}\n")
    if not (check_bits(device) & check_products(device)):
        return 1
    bandwidth = copy_bandwidth(device)
    print(f"device copy: {bandwidth / 1e3:.0f} GB/s, read plus written\n")
    time_dequantize(device, bandwidth)
    time_gemv(device, bandwidth)
    if args.sweep:
        sweep(device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
