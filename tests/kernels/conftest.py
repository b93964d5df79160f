"""Kernel tests run in Triton's interpreter on the CPU, or natively where there is a GPU.

``tests/conftest.py`` sets TRITON_INTERPRET on machines without a GPU: Triton reads it when it is
imported.
"""

import numpy as np
import pytest
import torch

from evenfall.kernels.backend import INTERPRETED, triton_runs_on


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run; skips without Triton, fails where Triton would not be used."""
    pytest.importorskip("triton")
    interpreted = INTERPRETED or not torch.cuda.is_available()
    chosen = torch.device("cpu" if interpreted else "cuda")
    if not triton_runs_on(chosen):
        pytest.fail("the references would be tested against themselves: set TRITON_INTERPRET=1")
    return chosen


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds NaN, so that a kernel that leaves a value unwritten is seen."""

    def poisoned(allocate):
        def wrapper(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return wrapper

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))


@pytest.fixture(autouse=True)
def round_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the interpreter round fp32 to bf16 to nearest even, as GPUs do; it cuts bits off."""
    if not INTERPRETED:
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast = InterpreterBuilder.cast_impl

    def cast_impl(self, src, dst_type):
        types = (src.dtype.scalar, dst_type.scalar)
        if types == (tl.float32, tl.bfloat16):
            bits = np.ascontiguousarray(src.data).view(np.uint32)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            rounded = np.where(np.isnan(src.data), 0x7FC0, rounded)
            return TensorHandle(rounded.astype(np.uint16), tl.bfloat16)
        if types == (tl.bfloat16, tl.float32):
            bits = np.ascontiguousarray(src.data).astype(np.uint32) << 16
            return TensorHandle(bits.view(np.float32), tl.float32)
        return cast(self, src, dst_type)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", cast_impl)
