"""Where and how the kernels run. Every op module stands on these few helpers, and on nothing else
of ours.

An op is one module with three layers, in this order (``glu.py`` is a short example):

1. ``<op>_reference``: plain torch. It is the CPU fallback, the oracle of the tests and the baseline
   of the benchmarks, so it rounds exactly where the model code of transformers rounds.
2. ``_<op>_forward_kernel`` and ``_<op>_backward_kernel``: Triton. Arithmetic is fp32; offsets of
   rows are int64 (16,384 rows of a 128k vocabulary overflow int32); scalars are cast to fp32 in the
   kernel; block pointers are avoided. Sizes that are no power of two are masked.
3. A ``torch.autograd.Function`` and the public function ``<op>``, which takes Triton where
   `triton_runs_on` says so and the reference otherwise.

A new op is added to the table in ``selftest.py`` as well: `evenfall doctor`, the tests and the GPU
script read it there.

Triton is optional. CPU builds of torch bring none, so the op modules import `jit`, `tl` and
`triton` from here and must still import when it is missing: kernels need ``from __future__ import
annotations``, because then ``tl.constexpr`` in a signature is never evaluated. Triton's own
interpreter (``TRITON_INTERPRET=1``) runs the kernels on CPU tensors. Triton reads that variable
when it is imported, so set it before.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import triton
    import triton.language as tl
    from triton import knobs
else:
    try:
        import triton
        import triton.language as tl
        from triton import knobs
    except ImportError:
        triton = tl = knobs = None

INTERPRETED: bool = triton is not None and bool(knobs.runtime.interpret)
"""Whether Triton's interpreter runs the kernels, which makes them work on CPU tensors, slowly."""

COMPILE_OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}
"""For every launch. Said outright because Triton 3.10 changes the default and 3.9 warns."""

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels read and write; other dtypes (float64 above all) take the reference."""


def jit(**options: Any) -> Any:
    """``triton.jit(**options)``; without Triton, a decorator that leaves the function alone."""
    return (lambda function: function) if triton is None else triton.jit(**options)


def triton_runs_on(device: torch.device | str) -> bool:
    """Whether the Triton kernels, not the plain-torch references, run for tensors on `device`."""
    if triton is None:
        return False
    return INTERPRETED or torch.device(device).type == "cuda"


def takes_triton(*tensors: Tensor) -> bool:
    """Whether these operands of an op go to its kernel: right device, right dtypes, not empty."""
    return all(triton_runs_on(t.device) and t.dtype in KERNEL_DTYPES and t.numel() > 0 for t in tensors)


def as_rows(tensor: Tensor) -> Tensor:
    """View ``[..., columns]`` as ``[rows, columns]`` with adjacent columns; copy only if there is
    no view.

    The rows may lie any distance apart (a slice of a fused projection stays a view), so a kernel
    takes ``stride(0)`` as an argument.
    """
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def launch_on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the device of `tensor` current: Triton launches there, wherever the operands are."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@lru_cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of `device`; on a CPU so few that loops take several turns."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def warps_for(elements: int) -> int:
    """Warps for a program that holds `elements` values of each operand: 16 values a thread, 4 to 16
    warps.

    Sixteen values of bf16 are two full-width loads; with 16 warps a thread may still use 128
    registers, enough for the widest hidden sizes without spilling.
    """
    return min(16, max(4, elements // (16 * 32)))
