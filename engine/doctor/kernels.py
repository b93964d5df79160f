"""What this device gives wrong: NF4 as bitsandbytes packs it, and our own kernels, against plain torch."""

from collections.abc import Iterator

from .fact import Check, judge, one_line

NF4_ERROR = 0.12
"""Relative error allowed to a block of normal weights in NF4 with double quantisation; 0.09 is usual."""


def check_nf4() -> Iterator[Check]:
    import torch
    from bitsandbytes import functional

    from ..machine.device import describe_device, pick_device

    device = pick_device("auto")
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(device)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    back = functional.dequantize_4bit(packed, state).float()
    error = float((back - weight).norm() / weight.norm())
    yield judge(
        error < NF4_ERROR,  # also false for nan
        Check(
            name="NF4",
            status="error",
            value=f"quantised and back on {describe_device(device)}: relative error {error:.3f}",
            advice=f"Expected under {NF4_ERROR}: reinstall bitsandbytes, or train with model.quantization=none.",
        ),
    )


def check_kernels() -> Iterator[Check]:
    from ...kernels.backend import triton_runs_on
    from ..machine.device import pick_device

    name = "kernels"
    device = pick_device("auto")
    if device.type != "cuda":
        yield Check(name=name, status="ok", value="reference path, no GPU")
        return
    if not triton_runs_on(device):
        yield Check(
            name=name,
            status="warning",
            value="reference path: triton is not installed",
            advice='Every part runs at stock speed. pip install "triton>=3.6"',
        )
        return
    from ...kernels.selftest import run_selftest

    results = run_selftest(device)
    ops = list(dict.fromkeys(result.op for result in results))
    failed = [result for result in results if not result.passed]
    if not failed:
        yield Check(name=name, status="ok", value=f"{len(ops)} ops as exact as eager: {', '.join(ops)}")
        return
    worst = failed[0]
    yield Check(
        name=name,
        status="warning",
        value=f"{len({result.op for result in failed})} of {len(ops)} ops fail; first {worst.op} "
        f"{worst.tensor}, {worst.dtype}, {worst.shape}: "
        + (one_line(worst.problem) if worst.problem else f"error {worst.error:.2e}, eager {worst.eager_error:.2e}"),
        advice="These parts run at stock speed, so results stay right. Please report this line.",
    )
