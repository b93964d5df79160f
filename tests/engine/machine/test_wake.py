"""A GPU is woken beside the imports; without one, or when that fails, nothing is lost."""

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from evenfall.engine.machine import wake
from evenfall.engine.machine.device import DeviceError


def test_a_run_on_the_cpu_wakes_nothing():
    wake.wake_gpu("cpu")
    wake.wake_kernels("cpu")
    assert wake._threads == []


@pytest.mark.parametrize("begin", [wake.wake_gpu, wake.wake_kernels])
@pytest.mark.parametrize("device", [torch.device("cuda", 0), torch.device("cpu")])
def test_only_a_gpu_is_used_and_once(begin, device, monkeypatch: pytest.MonkeyPatch):
    used = []
    for task in ("_first_operators", "_first_kernel"):
        monkeypatch.setattr(wake, task, used.append)
    monkeypatch.setattr("evenfall.engine.machine.device.pick_device", lambda choice: device)
    begin("auto")
    wake.wait()
    assert wake._threads == []
    assert used == [device] * (device.type == "cuda")


def test_what_fails_is_logged_and_left_to_the_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def none(choice: str) -> torch.device:
        raise DeviceError("torch sees no GPU")

    monkeypatch.setattr("evenfall.engine.machine.device.pick_device", none)
    with caplog.at_level(logging.INFO, logger=wake.__name__):
        wake.wake_gpu("cuda")
        wake.wait()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "torch sees no GPU" in caplog.text


def test_what_is_done_runs_anywhere_and_wakes_what_proofs_use(monkeypatch: pytest.MonkeyPatch):
    real, used = F.scaled_dot_product_attention, []

    def attention(query: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        used.append(query.dtype)
        return real(query, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    wake._first_operators(torch.device("cpu"))
    wake._first_kernel(torch.device("cpu"))
    assert used == [torch.float32, torch.float64]
