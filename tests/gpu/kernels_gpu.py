"""Check and time the kernels on the GPU of this machine: ``python tests/gpu/kernels_gpu.py``.

Every op is first compared with its reference in each dtype, on the self-test's shapes and on the
shapes of real models; only what is right is timed. Times are medians over repeated launches with a
cold L2 cache. GB/s counts what an op must read and write, once; beside it stands the share of what
a plain device copy of as many bytes reaches, which no elementwise kernel can beat. "eager" is the
plain-torch reference, forward or backward. `rope` is timed by its raw function, in place on slices
of a fused projection, since that is how it runs.

Exits with 1 if any tensor of any op is further from the truth than eager, and with 2 where there is
no GPU. Pass ``--rows`` to fit a smaller card: 16384 rows in fp32 need about 12 GB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from evenfall.kernels import selftest
from evenfall.kernels.backend import INTERPRETED, KERNEL_DTYPES, triton_runs_on
from evenfall.kernels.rope import rope_, rope_reference

REAL_COLUMNS = {
    "rms_norm": (4096, 128),
    "rms_norm (1 + w)": (3584,),
    "swiglu": (14336,),
    "geglu": (14336,),
    "geglu (erf)": (14336,),
    "rope": (4096,),
    "rope (interleaved)": (4096,),
}
"""Hidden sizes, the width of a head (for norms of q and k), an intermediate size, heads of q."""

HEADS = 32


def rows_for(columns: int, rows: int) -> int:
    """Rows of the timed shape: per-head norms see every head of every token."""
    return rows * HEADS if columns <= 256 else rows


def median_ms(function: Callable[[], object]) -> float:
    """Median time of `function` in ms."""
    from triton.testing import do_bench

    median = do_bench(function, warmup=50, rep=200, return_mode="median")
    assert isinstance(median, float)
    return median


def copy_bandwidth(device: torch.device, size: int) -> float:
    """GB/s, read plus write, of copying `size` / 2 bytes on the device."""
    source = torch.empty(size // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return size / median_ms(lambda: target.copy_(source)) / 1e6


def check(device: torch.device, rows: int) -> bool:
    """Print one line for each op, dtype and shape; return whether all passed."""
    results = selftest.run_selftest(device)
    for name in selftest.OPS:
        for columns in REAL_COLUMNS[name]:
            shapes = [(rows_for(columns, rows), columns)]
            results += selftest.run_selftest(device, shapes=shapes, ops=[name])
    print(f"{'op':20}{'dtype':10}{'shape':>16}  {'tensor':12}{'error':>10}{'eager':>10}")
    for r in results:
        shape = f"{r.shape[0]}x{r.shape[1]}"
        verdict = "" if r.passed else f"  FAILED {r.problem}"
        line = f"{r.op:20}{r.dtype:10}{shape:>16}  {r.tensor:12}{r.error:10.2e}{r.eager_error:10.2e}"
        print(line + verdict)
    failed = sum(not r.passed for r in results)
    print(f"{len(results)} tensors compared, {failed} failed\n")
    return not failed


def time_op(name: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Print forward and backward of one op at one shape, weights frozen as in fine-tuning."""
    op = selftest.OPS[name]
    operands = selftest.random_operands(op, shape, dtype, torch.Generator(device).manual_seed(0))
    trained = [t for t in operands.values() if t.dim() > 1]
    for t in trained:
        t.requires_grad_()
    size = trained[0].numel() * trained[0].element_size()
    moved = {"forward": (len(trained) + 1) * size, "backward": (2 * len(trained) + 1) * size}

    def timed(part: Callable[..., Tensor]) -> dict[str, float]:
        out = part(**operands)
        dout = torch.randn_like(out)

        def backward() -> object:
            return torch.autograd.grad(out, trained, dout, retain_graph=True)

        return {"forward": median_ms(lambda: part(**operands)), "backward": median_ms(backward)}

    ours, eager = timed(op.fast), timed(op.reference)
    for step, ms in ours.items():
        report(name, step, device, dtype, shape, ms, eager[step], moved[step])


def time_rope(name: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Print the turn of 128-wide heads of q, a quarter as many of k, and its inverse."""
    tokens, columns = shape
    q_heads, k_heads, size = columns // 128, columns // 512, 128
    interleaved = name != "rope"
    fused = torch.randn(tokens, (q_heads + 2 * k_heads) * size, device=device).to(dtype)
    heads = fused.view(tokens, -1, size)
    q, k = heads[:, :q_heads], heads[:, q_heads : q_heads + k_heads]
    angles = torch.randn(tokens, size // 2, device=device).repeat(1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    moved = (2 * (q.numel() + k.numel()) + cos.numel()) * fused.element_size()
    for step, sine in (("forward", sin), ("backward", -sin)):

        def ours(inverse: bool = step == "backward") -> None:
            rope_(q, k, cos, sin, interleaved=interleaved, inverse=inverse)

        def eager(sine: Tensor = sine) -> object:
            return rope_reference(q, k, cos, sine, interleaved=interleaved)

        report(name, step, device, dtype, shape, median_ms(ours), median_ms(eager), moved)


def report(
    name: str,
    step: str,
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int],
    ms: float,
    eager_ms: float,
    moved: int,
) -> None:
    """Print one line of the table of times; `moved` is in bytes."""
    rate = moved / ms / 1e6
    share = rate / copy_bandwidth(device, moved)
    kind = str(dtype).removeprefix("torch.")
    print(
        f"{name:20}{step:10}{kind:10}{f'{shape[0]}x{shape[1]}':>16}{ms * 1e3:10.1f}"
        f"{eager_ms * 1e3:10.1f}{eager_ms / ms:8.2f}{rate:9.0f}{share:8.0%}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Check and time the kernels on this GPU.")
    parser.add_argument("--rows", type=int, default=16384, help="tokens of the real shapes")
    rows = parser.parse_args().rows
    if not torch.cuda.is_available() or INTERPRETED or not triton_runs_on("cuda"):
        print("needs a GPU and Triton, and TRITON_INTERPRET unset", file=sys.stderr)
        return 2
    import triton

    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}, triton {triton.__version__}\n")
    if not check(device, rows):
        return 1
    print(
        f"{'op':20}{'step':10}{'dtype':10}{'shape':>16}{'us':>10}{'eager us':>10}{'times':>8}{'GB/s':>9}{'of copy':>8}"
    )
    for name in selftest.OPS:
        for columns in REAL_COLUMNS[name]:
            for dtype in KERNEL_DTYPES:
                time = time_rope if name.startswith("rope") else time_op
                time(name, device, dtype, (rows_for(columns, rows), columns))
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
