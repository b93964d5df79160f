"""Thirty steps against the stock stack (TRL, PEFT, bitsandbytes), loss by loss."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.model import load
from evenfall.engine.model.patch import attention as patch_attention
from evenfall.engine.model.patch import layers as patch_layers
from evenfall.engine.model.patch import norms_and_mlps as patch
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session
from evenfall.engine.training import build
from evenfall.kernels.backend import triton_runs_on

STEPS = 30


@pytest.fixture(scope="module")
def stock_losses() -> Callable[[RunConfig, int], list[float]]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        from stock import train_stock
    finally:
        sys.path.pop(0)
    return lambda config, steps: train_stock(config, steps).losses


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("quantization", "rtol"), [("nf4", 5e-4), ("none", 5e-5)])
def test_losses_equal_the_stock_stacks(
    tiny_config: Callable[..., RunConfig],
    stock_losses: Callable[[RunConfig, int], list[float]],
    monkeypatch: pytest.MonkeyPatch,
    quantization: str,
    rtol: float,
    packed: bool,
) -> None:
    if not packed:  # as for a family whose attention is not known
        monkeypatch.setattr(load, "FAMILIES", {})
    config = tiny_config(
        model={"quantization": quantization},
        adapter={"r": 8, "lora_alpha": 16},
        data={"shuffle": False, "max_length": 48},
        train={
            "max_steps": STEPS, "learning_rate": 3e-3, "num_train_epochs": 9,
            "gradient_accumulation_steps": 1, "per_device_train_batch_size": 2,
            "weight_decay": 0.01,
        },
    )  # fmt: skip
    run = create_run(config)
    session = Session(run)
    session.start()
    assert session.wait(600) and session.state == "finished"
    ours = torch.tensor([step.loss for step in run.progress().steps])
    stock = torch.tensor(stock_losses(config, STEPS))
    assert ours[-5:].mean() < 0.95 * ours[:5].mean()
    torch.testing.assert_close(ours, stock, rtol=rtol, atol=0)


@pytest.mark.skipif(not triton_runs_on("cpu"), reason="needs Triton's interpreter")
@pytest.mark.parametrize("recompute", [False, True])
def test_losses_of_the_fast_step_equal_the_stock_stacks(
    tiny_config: Callable[..., RunConfig],
    stock_losses: Callable[[RunConfig, int], list[float]],
    monkeypatch: pytest.MonkeyPatch,
    recompute: bool,
) -> None:
    """Kernels, whole layers, packed attention, loss head and their gradients in the loop itself."""
    for module in (patch, patch_layers, patch_attention, build):
        monkeypatch.setattr(module, "no_kernels_on", lambda device: "")
    config = tiny_config(
        adapter={"r": 8, "lora_alpha": 16},
        data={"shuffle": False, "max_length": 48},
        train={
            "max_steps": 4, "learning_rate": 3e-3, "num_train_epochs": 9, "warmup_steps": 0,
            "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1,
            "gradient_checkpointing": recompute,
        },
    )  # fmt: skip
    run = create_run(config)
    session = Session(run)
    session.start()
    assert session.wait(600) and session.state == "finished"
    parts = run.progress().parts
    assert parts is not None and all(part.fast for part in parts.parts), parts
    assert {"decoder layer", "packed attention", "loss head"} <= {p.kind for p in parts.parts}
    ours = torch.tensor([step.loss for step in run.progress().steps])
    torch.testing.assert_close(ours, torch.tensor(stock_losses(config, 4)), rtol=5e-4, atol=0)
