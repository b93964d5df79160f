"""The adapter's parameters as one flat buffer, and AdamW on it.

Parameters, gradients and moments of an adapter are hundreds of small matrices. Here each kind is one fp32
buffer, the model's parameters and their `.grad` are views of two of them, and a step is three launches
(`kernels/adamw.py`). Everything is allocated at once: moments that exist from the start cannot run out of
memory in the middle of a first step, and a checkpoint of step 0 is like any other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..kernels.adamw import AdamWSettings, adamw_step, adamw_step_reference

_ALIGN = 64
"""Parameters start at multiples of this many values, as an allocation of their own would."""


class FlatAdamW:
    """AdamW over named fp32 parameters of one device, with the clip by the gradient's norm.

    Taking the parameters in moves them: they become views of the flat buffer, with their values.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], settings: AdamWSettings):
        self.settings = settings
        self._parameters = dict(parameters)
        starts, size = {}, 0
        for name, parameter in self._parameters.items():
            starts[name] = size
            size += -(-parameter.numel() // _ALIGN) * _ALIGN
        device = next(iter(self._parameters.values())).device
        self._flat = torch.zeros(size, dtype=torch.float32, device=device)
        self._grad, self._mean, self._square = (torch.zeros_like(self._flat) for _ in range(3))
        self._step = torch.zeros((), dtype=torch.float32, device=device)
        self._moments: dict[str, Tensor] = {"step": self._step}
        for name, parameter in self._parameters.items():

            def view(buffer: Tensor, start: int = starts[name], like: Tensor = parameter) -> Tensor:
                return buffer[start : start + like.numel()].view(like.shape)

            value = view(self._flat)
            value.copy_(parameter.data)
            parameter.data = value
            parameter.grad = view(self._grad)
            self._moments[f"exp_avg/{name}"] = view(self._mean)
            self._moments[f"exp_avg_sq/{name}"] = view(self._square)

    def step(self, rate: float) -> Tensor:
        """Update by the gradients gathered since the last step, and set them to zero.

        Args:
            rate: the learning rate of this step.

        Returns:
            The gradient's norm before the clip, fp32 ``[]`` on the device. Where it is not finite
            nothing was updated.
        """
        # Not left to `adamw_step`: Triton's interpreter, where it is on, would take seconds a step.
        update = adamw_step if self._flat.is_cuda else adamw_step_reference
        norm = update(
            self._flat, self._grad, self._mean, self._square, self._step, rate, self.settings
        )
        # A kernel's writes are unknown to autograd, and to whoever keeps rounded copies.
        torch.autograd.graph.increment_version(list(self._parameters.values()))
        return norm

    def zero_grad(self) -> None:
        """Drop the gradients gathered so far."""
        self._grad.zero_()

    def moments(self) -> dict[str, Tensor]:
        """What a checkpoint must hold, by name; copy into these tensors to go on from one."""
        return self._moments
