"""A GPU's first moments, spent while Python is busy elsewhere.

The first tensor on a GPU waits for the driver's context, the first matmul for cuBLAS, the first attention for
cuDNN, and the first of our kernels for Triton, which reads its own compiler (some 500 MB) to name its cache. None
of that holds the GIL for long. So each is done once, tiny, in a thread: beside the imports, beside the loading
of the model. Nothing depends on it; what fails here fails again where it is needed, and says so there.
Before memory is measured and CUDA graphs are captured, `wait` until it is over: both take other threads'
calls for the run's own.

This module is light; torch must have been imported when it is used.
"""

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


_threads: list[threading.Thread] = []


def wake_gpu(choice: str) -> None:
    """Begin a first matmul and attention on the device for `train.device`, if that is a GPU."""
    _begin(_first_operators, choice)


def wake_kernels(choice: str) -> None:
    """Begin a first Triton kernel there. The engine must have been imported."""
    _begin(_first_kernel, choice)


def wait() -> None:
    """Wait for all that was begun."""
    while _threads:
        _threads.pop().join()


def _begin(task: "Callable[[torch.device], None]", choice: str) -> None:
    def work() -> None:
        from .device import pick_device

        try:
            device = pick_device(choice)
            if device.type == "cuda":
                task(device)
        except Exception:
            log.info("waking the GPU failed", exc_info=True)

    if choice != "cpu":
        # No daemon: a process that ends in the middle of a driver's call may crash.
        thread = threading.Thread(target=work, name="evenfall-wake")
        _threads.append(thread)
        thread.start()


def _first_operators(device: "torch.device") -> None:
    import torch
    import torch.nn.functional as F

    from .device import compute_dtype

    # Proofs compare with float64.
    for dtype in (compute_dtype("auto", device), torch.float64):
        heads = torch.zeros(1, 2, 64, 64, dtype=dtype, device=device, requires_grad=True)
        out = F.scaled_dot_product_attention(heads @ heads, heads, heads, is_causal=True)
        torch.autograd.grad(out, heads, out)


def _first_kernel(device: "torch.device") -> None:
    import torch

    from ...kernels.scatter import Copy, Scatter

    source = torch.zeros(1, 16, device=device)
    Scatter([Copy(source, torch.zeros_like(source, dtype=torch.bfloat16), 1.0)]).run()
