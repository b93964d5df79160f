"""Check and time the GLU fused with its adapters' products on this GPU: ``python tests/gpu/glu_adapters_gpu.py``.

First the numbers: product, dgate and dup must be the bits that the unfused kernels write; what the adapters carry
and their gradients are judged by the matmuls that they replace, both against float64 sums over the same bits. Only
what is right is timed.

Times are medians over replays of CUDA graphs. "GLU" is the unfused kernel alone, which is what the fused one should
cost; "with matmuls" is what it replaces: `glu_forward` and one skinny matmul, `glu_backward` and three. "floor" is
the time in which a device copy, measured in the same run, moves the bytes that the GLU must read and write once (3
matrices of tokens forward, 5 backward); "of floor" is the share of that speed reached.

``--sweep`` times other tiles and shares as well, best last, for ``--rank`` (16) and ``--tokens`` (16384). Exits with
1 if any number is wrong, and with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from nf4_gpu import copy_bandwidth, microseconds
from torch import Tensor

from evenfall.kernels import glu_adapters
from evenfall.kernels.accuracy import Comparison, relative_rms_error
from evenfall.kernels.backend import INTERPRETED, triton_runs_on
from evenfall.kernels.glu import Activation, glu_backward, glu_forward
from evenfall.kernels.glu_adapters import glu_backward_gradients, glu_forward_carry
from evenfall.kernels.matmul import matmul_fp32

SHAPES = {"8b": (16384, 14336), "1b": (16384, 8192), "8b, few": (4096, 14336)}
"""Tokens, and intermediate columns of Llama 3."""

RANKS = (16, 64)
ACCUMULATION = 2e-5
"""How far off a sum may be anyway. Tensor cores cut bits off where they add, which after a thousand additions shows
in the sixth digit; what they add was rounded to three."""

CHUNK = 2048
"""Columns that are judged in float64 at a time."""


@dataclass
class Layer:
    """Operands and results as a decoder layer has them: views of wider buffers."""

    gate: Tensor
    up: Tensor
    product: Tensor
    carried: Tensor
    rows: Tensor
    dproduct: Tensor
    dgate: Tensor
    dup: Tensor
    u: Tensor
    t: tuple[Tensor, Tensor]
    activation: Activation

    @classmethod
    def make(
        cls,
        tokens: int,
        columns: int,
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
        activation: Activation = "silu",
    ) -> Layer:
        generator = torch.Generator(device).manual_seed(tokens + columns + rank)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, device=device, dtype=dtype)

        gate_up, dgate_up = normal(tokens, 2 * columns), normal(tokens, 2 * columns + 2 * rank)
        product, rows = normal(tokens, columns + rank), normal(rank, columns + rank)
        x = normal(tokens, 4096 + 2 * rank)
        return cls(
            gate_up[:, :columns],
            gate_up[:, columns:],
            product[:, :columns],
            product[:, columns:],
            rows[:, :columns],
            normal(tokens, columns),
            dgate_up[:, :columns],
            dgate_up[:, columns : 2 * columns],
            normal(tokens, 4096 + rank)[:, 4096:],
            (x[:, 4096 : 4096 + rank], x[:, 4096 + rank :]),
            activation,
        )

    def forward(self) -> None:
        glu_forward_carry(self.gate, self.up, self.product, self.rows, self.carried, self.activation)

    def backward(self) -> tuple[Tensor, ...]:
        return glu_backward_gradients(
            self.dproduct,
            self.gate,
            self.up,
            self.dgate,
            self.dup,
            self.u,
            self.t,
            self.activation,
        )

    def glu_forward(self) -> None:
        glu_forward(self.gate, self.up, self.product, self.activation)

    def glu_backward(self) -> None:
        glu_backward(self.dproduct, self.gate, self.up, self.dgate, self.dup, self.activation)

    def forward_apart(self) -> None:
        self.glu_forward()
        torch.mm(self.product, self.rows.t(), out=self.carried)

    def backward_apart(self) -> tuple[Tensor, ...]:
        self.glu_backward()
        t_gate, t_up = self.t
        return (
            matmul_fp32(self.u.t(), self.product),
            matmul_fp32(self.dgate.t(), t_gate),
            matmul_fp32(self.dup.t(), t_up),
        )

    def exact(self) -> tuple[Tensor, ...]:
        """What is carried, and the three gradients, in float64, from the matrices as they are stored."""
        u, (t_gate, t_up) = self.u.double(), (t.double() for t in self.t)
        carried: Any = 0.0
        parts = []
        for start in range(0, self.gate.shape[1], CHUNK):
            product, rows, dgate, dup = (
                x[:, start : start + CHUNK].double() for x in (self.product, self.rows, self.dgate, self.dup)
            )
            carried = carried + product @ rows.t()
            parts.append((u.t() @ product, dgate.t() @ t_gate, dup.t() @ t_up))
        da, db_gate, db_up = zip(*parts, strict=True)
        return carried, torch.cat(da, dim=1), torch.cat(db_gate), torch.cat(db_up)


def cases() -> Iterator[tuple[int, int, int, torch.dtype, Activation]]:
    for rank in RANKS:
        for tokens, columns in SHAPES.values():
            yield tokens, columns, rank, torch.bfloat16, "silu"
        for dtype in (torch.float16, torch.float32):
            yield 2085, 1104, rank, dtype, "silu"
    yield 2085, 1104, 32, torch.bfloat16, "silu"
    for activation in ("gelu_tanh", "gelu"):
        yield 2085, 1104, 16, torch.bfloat16, activation
    yield 333, 507, 5, torch.bfloat16, "silu"


def check(device: torch.device) -> bool:
    """Print one line for each case and return whether all passed."""
    print(f"{'tokens':>7}{'columns':>8}{'rank':>5}{'dtype':>10} {'GLU':10}{'bits':7}", end="")
    print("".join(f"{name:>22}" for name in ("carried", "da", "db gate", "db up")))
    good = True
    for tokens, columns, rank, dtype, activation in cases():
        layer = Layer.make(tokens, columns, rank, dtype, device, activation)
        layer.forward_apart()
        apart = layer.carried.clone(), *layer.backward_apart()
        bits = [x.clone() for x in (layer.product, layer.dgate, layer.dup)]
        exact = layer.exact()
        for written in (layer.product, layer.carried, layer.dgate, layer.dup):
            written.fill_(float("nan"))
        layer.forward()
        fused = layer.carried, *layer.backward()
        same = all(torch.equal(a, b) for a, b in zip((layer.product, layer.dgate, layer.dup), bits, strict=True))
        again = layer.backward()
        same &= all(torch.equal(a, b) for a, b in zip(fused[1:], again, strict=True))
        kind = str(dtype).removeprefix("torch.")
        print(f"{tokens:7}{columns:8}{rank:5}{kind:>10} {activation:10}", end="")
        print(f"{'equal' if same else 'DIFFER':7}", end="")
        for value, plain, truth in zip(fused, apart, exact, strict=True):
            error, plain_error = (relative_rms_error(x, truth) for x in (value, plain))
            rounding = max(ACCUMULATION, torch.finfo(value.dtype).eps / 2)
            passed = Comparison(tensor="sum", error=error, eager_error=plain_error, rounding=rounding).passed
            good &= passed
            print(f"{error:10.1e} /{plain_error:8.1e}{'  ' if passed else ' !'}", end="")
        print()
        good &= same
    print("(errors: fused / matmul)\n" if good else "FAILED\n")
    return good


def time_all(device: torch.device, bandwidth: float) -> None:
    print(f"{'shape':9}{'tokens x columns':>18}{'rank':>5} {'':9}{'fused':>9}{'GLU':>9}", end="")
    print(f"{'with matmuls':>14}{'times':>7}{'floor':>9}{'of floor':>10}")
    for (name, (tokens, columns)), rank in itertools.product(SHAPES.items(), RANKS):
        layer = Layer.make(tokens, columns, rank, torch.bfloat16, device)
        passes: dict[str, tuple[int, Callable, Callable, Callable]] = {
            "forward": (3, layer.forward, layer.glu_forward, layer.forward_apart),
            "backward": (5, layer.backward, layer.glu_backward, layer.backward_apart),
        }
        for way, (matrices, *calls) in passes.items():
            fused, alone, apart = (microseconds([call] * 4, 15) for call in calls)
            floor = matrices * 2 * tokens * columns / bandwidth
            print(f"{name:9}{f'{tokens} x {columns}':>18}{rank:5} {way:9}{fused:9.1f}", end="")
            print(f"{alone:9.1f}{apart:14.1f}{apart / fused:7.2f}{floor:9.1f}", end="")
            print(f"{floor / fused:10.0%}")
    print()


def sweep(device: torch.device, tokens: int, rank: int) -> None:
    """Time other tiles, shares and stages than the module chooses, for the columns of 8b."""
    layer = Layer.make(tokens, SHAPES["8b"][1], rank, torch.bfloat16, device)
    patch = partial(mock.patch.object, glu_adapters)

    results = []
    for rows, cols, warps in itertools.product((16, 32, 64, 128), (32, 64, 128, 256), (4, 8)):
        if not 8 <= rows * cols // (32 * warps) <= 32 or rank > rows:
            continue
        tile = glu_adapters._Tile(rows, cols, warps)
        with patch("_forward_tile", lambda *args, tile=tile: tile):
            results.append((attempt(layer.forward), f"{rows} x {cols}, {warps} warps"))
    chosen = glu_adapters._forward_tile(tokens, rank, torch.bfloat16, device)
    for stages in (1, 2, 4):
        tile = chosen._replace(stages=stages)
        with patch("_forward_tile", lambda *args, tile=tile: tile):
            results.append((attempt(layer.forward), f"chosen, {stages} stages"))
    report("forward", chosen, attempt(layer.forward), results)

    results = []
    for rows, cols, warps in itertools.product((16, 32, 64), (32, 64, 128), (4, 8, 16)):
        values, sums = (x // (32 * warps) for x in (rows * cols, 3 * cols * rank))
        if not 8 <= values <= 32 or sums > 100 or values + sums < 16:
            continue
        tile = glu_adapters._Tile(rows, cols, warps)
        for shares in (2, 3, 5, 7, 10, 14):
            with (
                patch("_backward_tile", lambda *args, tile=tile: tile),
                patch("_shares", lambda *args, shares=shares: shares),
            ):
                us = attempt(layer.backward)
            results.append((us, f"{rows} x {cols}, {warps} warps, {shares} shares"))
    chosen = glu_adapters._backward_tile(rank, torch.bfloat16)
    for stages in (1, 2, 3, 4):
        tile = chosen._replace(stages=stages)
        with patch("_backward_tile", lambda *args, tile=tile: tile):
            results.append((attempt(layer.backward), f"chosen, {stages} stages"))
    report("backward", chosen, attempt(layer.backward), results)


def attempt(call: Callable[[], object]) -> float:
    """Microseconds of a call; infinity where its kernel does not fit the processor."""
    from triton.runtime.errors import OutOfResources

    try:
        return microseconds([call] * 2, 10)
    except OutOfResources:
        return float("inf")


def report(what: str, chosen: object, us: float, results: list[tuple[float, str]]) -> None:
    for time, choice in sorted(results, reverse=True)[-12:]:
        print(f"{what:10}{choice:36}{time:9.1f} us")
    print(f"{what:10}chosen: {chosen}, {us:.1f} us\n")


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description="Check and time the fused GLU on this GPU.")
    parser.add_argument("--sweep", action="store_true", help="time other tiles as well")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16384)
    args = parser.parse_args()
    if not torch.cuda.is_available() or INTERPRETED or not triton_runs_on("cuda"):
        print("needs a GPU and Triton, and TRITON_INTERPRET unset", file=sys.stderr)
        return 2
    import triton

    device = torch.device("cuda", torch.cuda.current_device())
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{torch.cuda.get_device_name(device)}, {versions}\n")
    if not check(device):
        return 1
    bandwidth = copy_bandwidth(device)
    print(f"device copy: {bandwidth / 1e3:.0f} GB/s, read plus written\n")
    time_all(device, bandwidth)
    if args.sweep:
        sweep(device, args.tokens, args.rank)
    return 0


if __name__ == "__main__":
    sys.exit(main())
