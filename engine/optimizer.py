"""The adapter's parameters as one flat buffer, and AdamW on it.

Parameters, gradients and moments of an adapter are hundreds of small matrices. Here each kind is one fp32
buffer, and the model's parameters and their `.grad` are views of two of them: a step takes as many launches
for hundreds of matrices as for one. Everything is allocated at once: moments that exist from the start
cannot run out of memory in the middle of a first step, and a checkpoint of step 0 is like any other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..kernels.adamw import AdamWSettings, adamw_step, adamw_step_reference

_ALIGN = 64
"""Parameters start at multiples of this many values, as an allocation of their own would."""


class FlatAdamW:
    """AdamW (Loshchilov & Hutter 2019) over named fp32 parameters of one device, with the clip by the
    gradient's norm, without waiting for the device.

    Taking the parameters in moves them: they become views of the flat buffer, with their values.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], settings: AdamWSettings):
        self._parameters = dict(parameters)
        starts, size = {}, 0
        for name, parameter in self._parameters.items():
            starts[name] = size
            size += -(-parameter.numel() // _ALIGN) * _ALIGN
        device = next(iter(self._parameters.values())).device
        self._settings = settings
        # On a CPU the kernel would be Triton's interpreter, if anything.
        self._step = adamw_step if device.type == "cuda" else adamw_step_reference
        self._flat, self._grad, self._mean, self._square = torch.zeros(
            (4, size), dtype=torch.float32, device=device
        )
        self._steps = torch.zeros((), dtype=torch.float32, device=device)
        self._moments: dict[str, Tensor] = {"step": self._steps}
        for name, parameter in self._parameters.items():
            part = slice(starts[name], starts[name] + parameter.numel())
            value = self._flat[part].view(parameter.shape)
            value.copy_(parameter.data)
            parameter.data = value
            parameter.grad = self._grad[part].view(parameter.shape)
            self._moments[f"exp_avg/{name}"] = self._mean[part].view(parameter.shape)
            self._moments[f"exp_avg_sq/{name}"] = self._square[part].view(parameter.shape)

    def step(self, rate: float) -> Tensor:
        """Update by the gradients gathered since the last step, and set them to zero.

        Args:
            rate: the learning rate of this step.

        Returns:
            The gradient's norm before the clip, fp32 ``[]`` on the device. Where it is not finite
            nothing was updated.
        """
        buffers = self._flat, self._grad, self._mean, self._square
        return self._step(*buffers, self._steps, rate, self._settings)

    def zero_grad(self) -> None:
        """Drop the gradients gathered so far."""
        self._grad.zero_()

    def moments(self) -> dict[str, Tensor]:
        """What a checkpoint must hold, by name; copy into these tensors to go on from one."""
        return self._moments
