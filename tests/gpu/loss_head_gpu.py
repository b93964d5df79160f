"""Check and time the frozen loss head on this GPU: ``python tests/gpu/loss_head_gpu.py``.

Losses and the gradient of the hidden states, in each dtype, with and without a soft-cap, judged by eager in the
same dtype, both against float64 on as many rows as fit. Then times, bf16, 16,376 rows (8 of 2,048 tokens whose
last ones predict nothing): heads of Llama 3 8B and 1B and of Qwen 2.5 7B. "floor" is the two matmuls (4*M*H*V
FLOPs) at the rate of a large matmul measured in the same run; "eager" is torch's cross-entropy on logits that it
materialises, with the weight frozen, by rows of a quarter, since all would not fit beside their gradients.

Exits with 1 if anything is further from the truth than eager, and with 2 where there is no GPU.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from kernels_gpu import median_ms
from torch import Tensor

from evenfall.kernels.accuracy import Comparison, relative_rms_error
from evenfall.kernels.backend import INTERPRETED, KERNEL_DTYPES, triton_runs_on
from evenfall.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_reference,
)

HEADS = {"Llama 3 8B": (128256, 4096), "Llama 3 1B": (128256, 2048), "Qwen 2.5 7B": (152064, 3584)}
ROWS = 16_376
CHECKED_ROWS = 700


def operands(vocabulary: int, hidden: int, rows: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    states = torch.randn(rows, hidden, device="cuda").to(dtype)
    weight = torch.randn(vocabulary, hidden, device="cuda").mul_(0.05).to(dtype)
    labels = torch.randint(0, vocabulary, (rows,), device="cuda")
    return states, weight, labels


def losses_and_gradient(head, states: Tensor, weight: Tensor, labels: Tensor, dloss: Tensor):
    leaf = states.detach().requires_grad_()
    losses = head(leaf, weight, labels)
    (gradient,) = torch.autograd.grad(losses, leaf, dloss.to(losses.dtype))
    return losses.detach(), gradient


def check() -> bool:
    good = True
    print(f"{'head':14}{'dtype':>10}{'softcap':>9}  error (eager): losses, gradient")
    for name, (vocabulary, hidden) in HEADS.items():
        for dtype in KERNEL_DTYPES:
            for softcap in (None, 30.0):
                states, weight, labels = operands(vocabulary, hidden, CHECKED_ROWS, dtype)
                labels[::7] = -100
                dloss = torch.rand(CHECKED_ROWS, device="cuda")
                ours = partial(linear_cross_entropy, softcap=softcap)
                eager = partial(linear_cross_entropy_reference, softcap=softcap)
                got = losses_and_gradient(ours, states, weight, labels, dloss)
                want = losses_and_gradient(eager, states, weight, labels, dloss)
                exact = losses_and_gradient(eager, states.double(), weight.double(), labels, dloss.double())
                told = []
                for what, a, b, truth in zip(("losses", "gradient"), got, want, exact, strict=True):
                    error, eager_error = (relative_rms_error(t, truth) for t in (a, b))
                    rounding = torch.finfo(dtype).eps / 2
                    passed = Comparison(tensor=what, error=error, eager_error=eager_error, rounding=rounding).passed
                    good &= passed
                    told.append(f"{error:.1e} ({eager_error:.1e}){'' if passed else ' FAILED'}")
                kind = str(dtype).removeprefix("torch.")
                print(f"{name:14}{kind:>10}{softcap!s:>9}  {', '.join(told)}", flush=True)
                del states, weight, got, want, exact
    return good


def time_all() -> None:
    a, b = (torch.randn(16384, 4096, device="cuda").bfloat16() for _ in range(2))
    rate = 2 * a.numel() * b.shape[0] / median_ms(lambda: a @ b.t()) / 1e9
    print(f"\nmatmuls at {rate:.0f} TFLOP/s")
    print(f"{'head':14}{'ms':>9}{'floor':>9}{'of floor':>10}{'no grad':>9}{'eager':>9}{'GB':>7}")
    for name, (vocabulary, hidden) in HEADS.items():
        states, weight, labels = operands(vocabulary, hidden, ROWS, torch.bfloat16)
        states.requires_grad_()

        def step(states=states, weight=weight, labels=labels) -> None:
            linear_cross_entropy(states, weight, labels).sum().backward()

        def forward(states=states, weight=weight, labels=labels) -> None:
            with torch.no_grad():
                linear_cross_entropy(states, weight, labels)

        def eager(states=states, weight=weight, labels=labels) -> None:
            quarter = ROWS // 4
            part = states[:quarter].detach().requires_grad_()
            linear_cross_entropy_reference(part, weight, labels[:quarter]).sum().backward()

        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peak = (torch.cuda.max_memory_allocated() - before) / 1e9
        floor = 4 * ROWS * hidden * vocabulary / rate / 1e9
        ms = median_ms(step)
        print(
            f"{name:14}{ms:9.2f}{floor:9.2f}{floor / ms:10.0%}{median_ms(forward):9.2f}"
            f"{4 * median_ms(eager):9.2f}{peak:7.2f}",
            flush=True,
        )
        del states, weight, labels
        torch.cuda.empty_cache()


def main() -> int:
    if not torch.cuda.is_available() or INTERPRETED or not triton_runs_on("cuda"):
        print("needs a GPU and Triton, and TRITON_INTERPRET unset", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    if not check():
        return 1
    time_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
