"""The device a run computes on, and the dtype it computes in."""

import torch

from ..errors import UserError
from .host import usable_cores


class DeviceError(UserError):
    """A device that was asked for and is not there; the message says why and what to do."""


def pick_device(choice: str) -> torch.device:
    """The device for `train.device`: auto, cuda or cpu. On several GPUs it is the current one.

    Raises:
        DeviceError: cuda is asked for, and torch finds none.
    """
    if choice == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if choice == "cuda":
        raise DeviceError(
            f"train.device: cuda is asked for, but {why_no_cuda()}. Set train.device=cpu to train "
            "on the CPU (slow: for the demo and the smallest models)"
        )
    return torch.device("cpu")


def why_no_cuda() -> str:
    """Why torch finds no CUDA device, as a clause: `torch 2.13.0+cpu is a build without CUDA`."""
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is a build without CUDA"
    try:
        torch.cuda.init()
    except RuntimeError as error:  # the driver's own words: missing, too old, no device
        return f"torch cannot start CUDA: {str(error).strip().splitlines()[0].rstrip('.')}"
    return "torch sees no GPU (is CUDA_VISIBLE_DEVICES set to nothing?)"


def describe_device(device: torch.device) -> str:
    """`NVIDIA H200`, or `CPU (2 cores)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = usable_cores()
    return f"CPU ({cores} core{'s' if cores != 1 else ''})"


def compute_dtype(choice: str, device: torch.device) -> torch.dtype:
    """The dtype for `model.dtype`: auto, bfloat16, float16 or float32.

    auto is bfloat16 on a GPU that computes in it (compute capability 8.0 and above), float16 on an
    older one, and float32 on a CPU, where 16-bit arithmetic is mostly emulated.
    """
    if choice != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[choice]
    if device.type != "cuda":
        return torch.float32
    # Not torch.cuda.is_bf16_supported: that asks the current device, and counts emulation by default.
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16
