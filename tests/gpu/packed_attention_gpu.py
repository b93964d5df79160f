"""Check and time packed attention on this GPU: ``python tests/gpu/packed_attention_gpu.py``.

First the numbers: documents of many lengths, windows, soft-caps, groups and sizes of heads, in each
dtype, as slices of a fused projection; output and gradients are judged by eager attention in the
same dtype, both against eager attention in fp32 (float64 for fp32), document by document. Only what
is right is timed.

Times are medians with a cold L2 cache. TFLOP/s count what causal attention inside the documents
needs (two products forward, five backward) and nothing that is computed to be masked or twice.
"floor" is the time in which a device copy, measured in the same run, moves what must be read and
written once. "flash" is torch's varlen FlashAttention-2 on the same slices, both ways; "rows" is
torch's own attention on a batch, where all documents have one length.

``--sweep`` times other tiles as well, each kernel by itself, best last; "<- rule" marks what the module
chooses. All kernels are compiled beforehand by several processes. Exits with 1 if any number is
wrong, and with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from evenfall.kernels import packed_attention as module
from evenfall.kernels.accuracy import Comparison, relative_rms_error
from evenfall.kernels.backend import INTERPRETED, KERNEL_DTYPES, triton_runs_on
from evenfall.kernels.packed_attention import (
    Kernel,
    Tile,
    document_bounds,
    packed_attention_backward,
    packed_attention_forward,
    packed_attention_reference,
)

EXTRA = 64
"""Columns beside those of q, k and v, or of the output, as an adapter has them."""

CANDIDATES: dict[Kernel, tuple[tuple[int, int, int, int], ...]] = {
    "forward": (
        (64, 32, 4, 2), (64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2),
        (128, 32, 8, 2), (128, 32, 8, 3), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2),
        (128, 64, 4, 2), (128, 32, 4, 3),
    ),
    "query gradient": (
        (64, 32, 4, 2), (64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 8, 2),
        (64, 128, 8, 2), (128, 32, 8, 2), (128, 32, 8, 3), (128, 64, 8, 2), (128, 64, 8, 3),
        (128, 128, 8, 2),
    ),
    "key gradient": (
        (32, 32, 4, 2), (32, 64, 4, 2), (32, 64, 4, 3), (64, 64, 4, 1), (64, 64, 4, 2),
        (64, 64, 8, 2), (64, 64, 8, 3), (128, 64, 8, 2), (32, 128, 8, 2), (32, 128, 8, 3),
        (64, 128, 8, 2), (64, 128, 8, 3),
    ),
}  # fmt: skip
"""Rows, keys, warps and stages of the sweep's tiles, each also with one head to a tile."""


@dataclass(frozen=True)
class Case:
    """Operands of a kind, and tiles for them other than the module's."""

    heads: int = 32
    kv_heads: int = 8
    size: int = 128
    dtype: torch.dtype = torch.bfloat16
    window: int | None = None
    softcap: float | None = None
    tiles: tuple[tuple[Kernel, Tile], ...] = ()

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        extra = f", window {self.window}" if self.window else ""
        extra += f", cap {self.softcap:g}" if self.softcap else ""
        return f"{self.heads}/{self.kv_heads} heads of {self.size}, {kind}{extra}"

    @property
    def options(self) -> dict[str, Any]:
        return {"scale": self.size**-0.5, "window": self.window, "softcap": self.softcap}


class Row:
    """One packed row with its buffers: what the raw functions read and write."""

    def __init__(self, case: Case, lengths: Sequence[int]) -> None:
        self.case, self.lengths = case, tuple(lengths)
        tokens = sum(lengths)
        generator = torch.Generator("cuda").manual_seed(0)

        def buffer(columns: int) -> Tensor:
            values = torch.randn((tokens, columns + EXTRA), generator=generator, device="cuda")
            return values.to(case.dtype)

        query, keys = case.heads * case.size, case.kv_heads * case.size
        fused, single = [query, keys, keys], [query]
        self.q, self.k, self.v = self.parts(buffer(sum(fused)), fused)
        (self.dout,) = self.parts(buffer(query), single)
        (self.out,) = self.parts(buffer(query).fill_(torch.nan), single)
        self.grads = self.parts(buffer(sum(fused)).fill_(torch.nan), fused)
        offsets = torch.tensor((0, *itertools.accumulate(lengths)), dtype=torch.int32)
        self.offsets = offsets.to("cuda")
        self.starts, self.ends = document_bounds(self.offsets, tokens)
        self.lse = torch.zeros((case.heads, tokens), device="cuda")

    def parts(self, buffer: Tensor, widths: list[int]) -> list[Tensor]:
        columns = buffer.split([*widths, EXTRA], dim=1)[:-1]
        return [part.unflatten(1, (-1, self.case.size)) for part in columns]

    def forward(self) -> None:
        self.lse = packed_attention_forward(self.q, self.k, self.v, self.starts, self.out, **self.case.options)

    def backward(self) -> None:
        packed_attention_backward(
            self.dout, self.q, self.k, self.v, self.out, self.lse, self.starts, self.ends,
            *self.grads, **self.case.options,
        )  # fmt: skip

    @property
    def pairs(self) -> int:
        """Of a query and a key that it sees."""
        reach = self.case.window or max(self.lengths)
        return sum(n * (n + 1) // 2 - max(0, n - reach) * (max(0, n - reach) + 1) // 2 for n in self.lengths)

    def eager(self, dtype: torch.dtype) -> list[Tensor]:
        """Output and gradients of the reference, document by document, computed in `dtype`."""
        results = []
        operands = [t.split(self.lengths) for t in (self.q, self.k, self.v, self.dout)]
        for q, k, v, dout in zip(*operands, strict=True):
            q, k, v = leaves = [t.detach().to(dtype).requires_grad_() for t in (q, k, v)]
            starts = torch.zeros(len(q), dtype=torch.int32, device="cuda")
            out = packed_attention_reference(q, k, v, starts, **self.case.options)
            grads = torch.autograd.grad(out, leaves, dout.to(dtype))
            results.append((out.detach(), *grads))
        return [torch.cat(pieces) for pieces in zip(*results, strict=True)]


class Skipped:
    """In place of a kernel: launches nothing."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def alone(kernel: Kernel) -> ExitStack:
    """Make the backward launch this kernel only."""
    names = {
        "query gradient": "_attention_query_gradient_kernel",
        "key gradient": "_attention_key_gradient_kernel",
    }
    stack = ExitStack()
    for other, name in names.items():
        if kernel in names and other != kernel:
            stack.enter_context(mock.patch.object(module, name, Skipped()))
    return stack


def with_tiles(case: Case) -> Any:
    """Patch the module's rule."""
    rule, tiles = module._tile, dict(case.tiles)
    return mock.patch.object(module, "_tile", lambda kernel, q: tiles.get(kernel) or rule(kernel, q))


def attempt(case: Case) -> str:
    """Compile the kernels of a case and run them on a short row; return what went wrong."""
    try:
        with with_tiles(case), ExitStack() as stack:
            if case.tiles:
                stack.enter_context(alone(case.tiles[0][0]))
            row = Row(case, (40, 24))
            if not case.tiles or case.tiles[0][0] == "forward":
                row.forward()
            if not case.tiles or case.tiles[0][0] != "forward":
                row.backward()
            torch.cuda.synchronize()
    except Exception as problem:  # noqa: BLE001 - a tile that does not fit, above all
        return f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
    return ""


def compile_all(cases: Iterable[Case]) -> dict[Case, str]:
    """`attempt` each case in other processes, which leave their kernels in Triton's cache."""
    # A window changes no code.
    unique = list(dict.fromkeys(replace(case, window=None) for case in cases))
    workers = min(len(unique), max(1, (os.cpu_count() or 2) - 2))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return dict(zip(unique, pool.map(attempt, unique), strict=True))


def draw_lengths(tokens: int, seed: int = 0) -> tuple[int, ...]:
    """Of documents as an instruction set has them, most of 60 to 420 tokens."""
    draw, lengths = random.Random(seed), []
    while sum(lengths) < tokens:
        wish = min(int(draw.lognormvariate(4.9, 0.6)) + 20, 900)
        lengths.append(min(wish, tokens - sum(lengths)))
    return tuple(lengths)


SHORT = draw_lengths(2048)
CHECKS: tuple[tuple[Case, tuple[int, ...]], ...] = (
    *((Case(8, 2, size, dtype), SHORT) for size in (64, 128) for dtype in KERNEL_DTYPES),
    *((Case(8, 2, size), SHORT) for size in (80, 96, 256)),
    *((Case(*heads), SHORT) for heads in ((4, 4), (7, 1), (12, 2), (16, 1))),
    (Case(8, 4, 256, softcap=50.0), SHORT),
    (Case(8, 4, 256, softcap=50.0, window=100), SHORT),
    (Case(8, 2, window=1), SHORT),
    (Case(8, 2, window=77), SHORT),
    (Case(8, 2, window=1000), (5000, 1, 3000)),
    (Case(8, 2), (1,) * 300),
    (Case(8, 2), (129, 1, 1, 127, 128, 63, 65, 7)),
    (Case(8, 2), (8192,)),
    (Case(), draw_lengths(16_384)),
    (Case(size=64), (2048,) * 2),
)


def check() -> bool:
    """Print one line for each case; return whether all passed."""
    print(f"{'error (eager)':44}{'tokens':>7}{'out':>18}{'dq':>18}{'dk':>18}{'dv':>18}")
    good = True
    for case, lengths in CHECKS:
        row = Row(case, lengths)
        row.forward()
        row.backward()
        first = [t.clone() for t in (row.out, *row.grads)]
        row.forward()
        row.backward()
        got = (row.out, *row.grads)
        same = all(torch.equal(a, b) for a, b in zip(got, first, strict=True))
        truth = row.eager(torch.float64 if case.dtype == torch.float32 else torch.float32)
        eager = row.eager(case.dtype)
        rounding = torch.finfo(case.dtype).eps / 2
        results = [
            Comparison(
                tensor=name,
                error=relative_rms_error(a, t),
                eager_error=relative_rms_error(b, t),
                rounding=rounding,
            )
            for name, a, b, t in zip(("out", "dq", "dk", "dv"), got, eager, truth, strict=True)
        ]
        # With one key to a query the gradients of q and k vanish, and only rounding is left of them.
        judged = results if case.window != 1 and max(lengths) > 1 else [results[0], results[3]]
        fine = same and all(r.passed for r in judged)
        good &= fine
        errors = "".join(f"{r.error:9.1e} ({r.eager_error:.0e})".rjust(18) for r in results)
        verdict = ("" if fine else "  FAILED") + ("" if same else ", other bits the second time")
        print(f"{case!s:44}{sum(lengths):7}{errors}{verdict}", flush=True)
    print()
    return good


def median_ms(function: Callable[[], object], rep: int) -> float:
    """Median time of `function` in ms, over about `rep` ms."""
    from triton.testing import do_bench

    median = do_bench(function, warmup=rep // 4, rep=rep, return_mode="median")
    assert isinstance(median, float)
    return median


def copy_bandwidth() -> float:
    """Bytes a ms, read plus written."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_ms(lambda: target.copy_(source), 100)


LAYOUTS: dict[str, tuple[int, ...]] = {
    "short documents": draw_lengths(16_384),
    "rows of 2,048": (2048,) * 8,
    "one row": (32_768,),
}
SIZES = (128, 64)


def flash_ms(row: Row, rep: int) -> float:
    aten: Any = torch.ops.aten
    n, bounds = max(row.lengths), row.offsets

    def both() -> None:
        out, lse, seed, offset, _ = aten._flash_attention_forward(
            row.q, row.k, row.v, bounds, bounds, n, n, 0.0, True, False
        )
        aten._flash_attention_backward(
            row.dout, row.q, row.k, row.v, out, lse, bounds, bounds, n, n, 0.0, True, seed, offset
        )

    try:
        return median_ms(both, rep)
    except (RuntimeError, TypeError) as problem:
        print(f"flash: {str(problem).splitlines()[0][:90]}")
        return float("nan")


def rows_ms(row: Row, rep: int) -> float:
    """Documents of one length as a batch through torch's own attention: cuDNN's on Hopper."""
    if len(set(row.lengths)) != 1:
        return float("nan")
    q, k, v = (
        t.unflatten(0, (len(row.lengths), -1)).transpose(1, 2).detach().requires_grad_() for t in (row.q, row.k, row.v)
    )
    dout = row.dout.unflatten(0, (len(row.lengths), -1)).transpose(1, 2)

    def both() -> None:
        with torch.enable_grad():
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        torch.autograd.grad(out, (q, k, v), dout)

    return median_ms(both, rep)


def time_all() -> None:
    bandwidth = copy_bandwidth()
    print(f"device copy: {bandwidth / 1e6:.0f} GB/s, read plus written\n")
    print(
        f"{'ms':30}{'documents':>10}{'forward':>9}{'TFLOP/s':>8}{'backward':>9}{'TFLOP/s':>8}",
        end="",
    )
    print(f"{'dq':>8}{'dk, dv':>8}{'both':>8}{'TFLOP/s':>8}{'floor':>8}{'flash':>8}{'times':>7}{'rows':>8}")
    for size, (layout, lengths) in itertools.product(SIZES, LAYOUTS.items()):
        case = Case(size=size)
        row = Row(case, lengths)
        forward, backward = median_ms(row.forward, 100), median_ms(row.backward, 150)
        parts = []
        for kernel in ("query gradient", "key gradient"):
            with alone(kernel):
                parts.append(median_ms(row.backward, 60))
        flash = flash_ms(row, 150)
        flops = 4 * row.pairs * size * case.heads / 1e9
        both = forward + backward
        # Forward: q, k, v and out. Backward: these and dout read, three gradients written.
        moved = 3 * row.q.nbytes + 3 * row.out.nbytes + 3 * (row.k.nbytes + row.v.nbytes)
        print(
            f"{f'{case.heads}/{case.kv_heads} x {size}, {layout}':30}{len(lengths):10}"
            f"{forward:9.3f}{flops / forward:8.0f}{backward:9.3f}{2.5 * flops / backward:8.0f}"
            f"{parts[0]:8.3f}{parts[1]:8.3f}{both:8.3f}{3.5 * flops / both:8.0f}"
            f"{moved / bandwidth:8.3f}{flash:8.3f}{flash / both:7.2f}{rows_ms(row, 150):8.3f}",
            flush=True,
        )
    print()


def sweep_cases() -> list[Case]:
    cases = []
    for size, (kernel, shapes) in itertools.product(SIZES, CANDIDATES.items()):
        tiles = [Tile(*shape) for shape in shapes]
        rule = module._tile(kernel, torch.empty((1, 1, size), dtype=torch.bfloat16, device="cuda"))
        tiles += [rule, rule._replace(heads=1), rule._replace(heads=2)]
        cases += [Case(size=size, tiles=((kernel, tile),)) for tile in dict.fromkeys(tiles)]
    return cases


def sweep(problems: dict[Case, str]) -> None:
    for size, (layout, lengths) in itertools.product(SIZES, LAYOUTS.items()):
        if size != 128 and len(lengths) == 1:
            continue  # long, and much like rows of 2,048
        row = Row(Case(size=size), lengths)
        row.forward()
        for kernel in CANDIDATES:
            step = row.forward if kernel == "forward" else row.backward
            results = []
            for case in sweep_cases():
                if case.size != size or case.tiles[0][0] != kernel or problems[case]:
                    continue
                tile = case.tiles[0][1]
                with with_tiles(case), alone(kernel):
                    results.append((median_ms(step, 15), tile))
            rule = module._tile(kernel, row.q)
            results.sort(reverse=True, key=lambda result: result[0])
            for rank, (ms, tile) in enumerate(results):
                if rank < len(results) - 5 and tile != rule:
                    continue
                name = f"{tile.rows} x {tile.keys}, {tile.warps} warps, {tile.stages} stages, "
                name += f"{tile.heads} heads"
                chosen = "  <- rule" if tile == rule else ""
                print(f"{kernel:15}{size:4}  {layout:16}{name:42}{ms:8.3f} ms{chosen}", flush=True)
    for case, problem in problems.items():
        if problem and case.tiles:
            kernel, tile = case.tiles[0]
            print(f"did not run: {kernel}, {case.size}, {tuple(tile)}: {problem[:60]}")


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description="Check and time packed attention on this GPU.")
    parser.add_argument("--sweep", action="store_true", help="time other tiles as well")
    args = parser.parse_args()
    if not torch.cuda.is_available() or INTERPRETED or not triton_runs_on("cuda"):
        print("needs a GPU and Triton, and TRITON_INTERPRET unset", file=sys.stderr)
        return 2
    import triton

    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{torch.cuda.get_device_name()}, {versions}\n")
    cases = [case for case, _ in CHECKS] + [Case(size=size) for size in SIZES]
    problems = compile_all(cases + (sweep_cases() if args.sweep else []))
    for case, problem in problems.items():
        if problem and not case.tiles:
            print(f"{case}: {problem}")
    with torch.enable_grad():
        good = check()
    if not good:
        return 1
    time_all()
    if args.sweep:
        sweep(problems)
    return 0


if __name__ == "__main__":
    sys.exit(main())
