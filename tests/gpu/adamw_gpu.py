"""Check and time both optimisers on this GPU: ``python tests/gpu/adamw_gpu.py``, some 20 s.

First the numbers: AdamW with fp32 moments against torch's in float64; with 8-bit moments against the reference,
step by step from the same state, where codes may differ by one where two are as near. Then whether a step in a
CUDA graph gives the bits of a step outside. Only what is right is timed.

Times are medians over replays of CUDA graphs, at the size of an adapter of rank 16 on all matrices of an 8B Llama.
"torch" is what users of stock trainers have: `clip_grad_norm_`, fused AdamW and zeroed gradients, on as many
matrices. GB/s counts what a step must read and write once (the gradient twice: its norm comes first); "of copy" is
the share of what a device copy reaches in the same run.

Exits with 1 if any number is wrong, and with 2 where there is no GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from nf4_gpu import copy_bandwidth, microseconds
from torch import Tensor

from evenfall.kernels.accuracy import relative_rms_error
from evenfall.kernels.adamw import AdamWSettings, adamw_step
from evenfall.kernels.adamw_8bit import (
    BLOCK,
    Moments8Bit,
    adamw_8bit_step,
    adamw_8bit_step_reference,
)
from evenfall.kernels.backend import INTERPRETED, triton_runs_on

LAYERS, RANK = 32, 16
PROJECTIONS = {
    "q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096),
    "gate": (14336, 4096), "up": (14336, 4096), "down": (4096, 14336),
}  # fmt: skip
"""Of Llama 3 8B, [out, in]."""

SIZES = (1, 257, 100_003, 1 << 22)
SETTINGS = AdamWSettings(weight_decay=0.01)
RATE = 1e-3
BYTES = {"adamw_torch": 4 + 8 + 8 + 16.0, "adamw_8bit": 4 + 8 + 8 + 4 + 16 / BLOCK}
"""Of a parameter: gradient for the norm; parameter; gradient, read and zeroed; moments."""


def gradient(n: int, number: int, device: torch.device) -> Tensor:
    """Normal values on scales of four decades."""
    generator = torch.Generator(device).manual_seed(number)
    values = torch.randn(n, generator=generator, device=device)
    return values * 10 ** (-4 * torch.rand(n, generator=generator, device=device))


def check_fp32(device: torch.device, n: int) -> float:
    """Relative RMS error of the parameters' way in 5 steps, against torch in float64."""
    start = torch.randn(n, generator=torch.Generator(device).manual_seed(0), device=device)
    param, grad, mean, square = start.clone(), *torch.zeros((3, n), device=device)
    stock = torch.nn.Parameter(start.double())
    optimizer = torch.optim.AdamW([stock], lr=RATE, weight_decay=SETTINGS.weight_decay)
    step = torch.zeros((), device=device)
    for number in range(5):
        grad.copy_(gradient(n, number, device))
        stock.grad = grad.double()
        torch.nn.utils.clip_grad_norm_([stock], SETTINGS.max_norm)
        optimizer.step()
        adamw_step(param, grad, mean, square, step, RATE, SETTINGS)
    return relative_rms_error(param, stock.detach())


def buffers(n: int, device: torch.device) -> tuple[Tensor, Tensor, Moments8Bit, Tensor]:
    param, grad = torch.zeros((2, n), device=device)
    return param, grad, Moments8Bit.zeros(n, device), torch.zeros((), device=device)


def parts(moments: Moments8Bit) -> list[Tensor]:
    return [moments.mean, moments.square, moments.mean_absmax, moments.square_absmax]


def check_8bit(device: torch.device, n: int) -> tuple[float, float, int]:
    """The worst of 5 steps: error of parameters and of scales, share of codes that differ, by how
    much they do."""
    ours, want = buffers(n, device), buffers(n, device)
    error, share, most = 0.0, 0.0, 0
    for number in range(5):
        ours[1].copy_(gradient(n, number, device))
        want[1].copy_(ours[1])
        adamw_8bit_step(*ours, RATE, SETTINGS)
        adamw_8bit_step_reference(*want, RATE, SETTINGS)
        pairs = [(ours[0], want[0]), *zip(parts(ours[2]), parts(want[2]), strict=True)]
        for one, other in pairs:
            if one.dtype == torch.uint8:
                differ = (one.int() - other.int()).abs()
                share = max(share, float((differ > 0).float().mean()))
                most = max(most, int(differ.max()))
            else:
                error = max(error, relative_rms_error(one, other))
            other.copy_(one)  # what differed must not add up
    return error, share, most


def check_graph(device: torch.device) -> bool:
    """Whether three replays are three steps, bit for bit, the dropped one of them included."""
    n = 100_003
    states = buffers(n, device), buffers(n, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        adamw_8bit_step(*states[0], RATE, SETTINGS)
    torch.cuda.current_stream().wait_stream(stream)
    adamw_8bit_step(*states[1], RATE, SETTINGS)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        adamw_8bit_step(*states[0], RATE, SETTINGS)
    for number in range(3):
        for state in states:
            state[1].copy_(gradient(n, number, device))
            if number == 1:
                state[1][-1] = float("nan")
        graph.replay()
        adamw_8bit_step(*states[1], RATE, SETTINGS)
    one, other = ([s[0], s[3], *parts(s[2])] for s in states)
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def check(device: torch.device, sizes: tuple[int, ...] = SIZES) -> bool:
    """Print a line for each size; return whether all passed."""
    good = True
    for n in sizes:
        fp32 = check_fp32(device, n)
        error, share, most = check_8bit(device, n)
        fine = fp32 < 1e-6 and error < 1e-5 and most <= 1 and share < 1e-3 + 2 / n
        good &= fine
        print(
            f"{n:>9} values: fp32 off by {fp32:.1e}; 8 bits off by {error:.1e}, {share:.1e} of the "
            f"codes differ, by {most} at most{'' if fine else '  FAILED'}"
        )
    return good


def stock_step(device: torch.device) -> Callable[[], None]:
    """Clip, fused AdamW and zeroed gradients on the adapter's matrices."""
    halves = [(RANK, size[1]) for size in PROJECTIONS.values()]
    halves += [(size[0], RANK) for size in PROJECTIONS.values()]
    matrices = [torch.nn.Parameter(torch.zeros(h, device=device)) for h in halves * LAYERS]
    grads = [torch.ones_like(matrix) for matrix in matrices]
    for matrix, grad in zip(matrices, grads, strict=True):
        matrix.grad = grad
    optimizer = torch.optim.AdamW(matrices, lr=RATE, fused=True, capturable=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(matrices, SETTINGS.max_norm)
        optimizer.step()
        torch._foreach_zero_(grads)  # pyright: ignore[reportPrivateImportUsage]

    return step


def time_all(device: torch.device) -> None:
    n = LAYERS * RANK * sum(sum(size) for size in PROJECTIONS.values())
    bandwidth = copy_bandwidth(device)
    print(f"\ndevice copy: {bandwidth / 1e3:.0f} GB/s, read plus written; {n / 1e6:.1f} M parameters")
    print(f"{'':14}{'us':>9}{'GB/s':>8}{'of copy':>9}{'moments, MB':>13}")
    eight = buffers(n, device)
    param, grad, mean, square = torch.zeros((4, n), device=device)
    step = torch.zeros((), device=device)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "adamw_torch": (
            lambda: adamw_step(param, grad, mean, square, step, RATE, SETTINGS),
            mean.nbytes + square.nbytes,
        ),
        "adamw_8bit": (
            lambda: adamw_8bit_step(*eight, RATE, SETTINGS),
            sum(t.nbytes for t in parts(eight[2])),
        ),
    }
    for name, (call, held) in calls.items():
        us = microseconds([call] * 4)
        rate = BYTES[name] * n / us
        print(f"{name:14}{us:9.1f}{rate / 1e3:8.0f}{rate / bandwidth:9.0%}{held / 1e6:13.1f}")
    us = microseconds([stock_step(device)] * 2)
    print(f"{'torch':14}{us:9.1f}{'':17}{8 * n / 1e6:13.1f}")


@torch.no_grad()
def main() -> int:
    if not torch.cuda.is_available() or INTERPRETED or not triton_runs_on("cuda"):
        print("needs a GPU and Triton, and TRITON_INTERPRET unset", file=sys.stderr)
        return 2
    import triton

    device = torch.device("cuda", torch.cuda.current_device())
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{torch.cuda.get_device_name(device)}, {versions}\n")
    if not check(device):
        return 1
    if not check_graph(device):
        print("a step in a CUDA graph gives other bits: FAILED")
        return 1
    time_all(device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
