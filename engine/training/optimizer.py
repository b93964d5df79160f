"""The adapter's parameters as one flat buffer, and AdamW on it.

Parameters, gradients and moments of an adapter are hundreds of small matrices. Here each kind is one
buffer, and the model's parameters and their `.grad` are views of two of them: a step takes as many launches
for hundreds of matrices as for one. Everything is allocated at once: moments that exist from the start
cannot run out of memory in the middle of a first step, and a checkpoint of step 0 is like any other.

Moments are fp32, or 8-bit codes in blocks that share a scale. Then every parameter begins a block, so that
its values are rounded on their own scale, and a checkpoint has blocks by parameter. That pads a parameter by
255 values at most, and one whose size is a multiple of 256 not at all: of Llama's matrices at rank 16, none.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ...kernels import adamw_8bit
from ...kernels.adamw import AdamWSettings, adamw_step, adamw_step_reference
from ..config.run_config import Optim

_ALIGN = 64
"""Parameters start at multiples of this many values, as an allocation of their own would."""


class FlatAdamW:
    """AdamW (Loshchilov & Hutter 2019) over named fp32 parameters of one device, with the clip by the
    gradient's norm, without waiting for the device.

    Taking the parameters in moves them: they become views of the flat buffer, with their values.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        settings: AdamWSettings,
        optim: Optim = "adamw_torch",
    ):
        self._parameters = dict(parameters)
        self._settings = settings
        align = adamw_8bit.BLOCK if optim == "adamw_8bit" else _ALIGN
        starts, size = {}, 0
        for name, parameter in self._parameters.items():
            starts[name] = size
            size += -(-parameter.numel() // align) * align
        device = next(iter(self._parameters.values())).device
        flat, self._grad = torch.zeros((2, size), dtype=torch.float32, device=device)
        steps = torch.zeros((), dtype=torch.float32, device=device)
        self._moments: dict[str, Tensor] = {"step": steps}
        take = self._take_8bit if optim == "adamw_8bit" else self._take_fp32
        self._update = take(flat, starts, steps)
        for name, parameter in self._parameters.items():
            part = slice(starts[name], starts[name] + parameter.numel())
            value = flat[part].view(parameter.shape)
            value.copy_(parameter.data)
            parameter.data = value
            parameter.grad = self._grad[part].view(parameter.shape)

    def _take_fp32(
        self, flat: Tensor, starts: Mapping[str, int], steps: Tensor
    ) -> Callable[[float, AdamWSettings], Tensor]:
        """Allocate the moments and name them; returns the step."""
        mean, square = torch.zeros((2, *flat.shape), dtype=torch.float32, device=flat.device)
        for name, parameter in self._parameters.items():
            part = slice(starts[name], starts[name] + parameter.numel())
            self._moments[f"exp_avg/{name}"] = mean[part].view(parameter.shape)
            self._moments[f"exp_avg_sq/{name}"] = square[part].view(parameter.shape)
        # On a CPU the kernel would be Triton's interpreter, if anything.
        step = adamw_step if flat.is_cuda else adamw_step_reference
        return partial(step, flat, self._grad, mean, square, steps)

    def _take_8bit(
        self, flat: Tensor, starts: Mapping[str, int], steps: Tensor
    ) -> Callable[[float, AdamWSettings], Tensor]:
        """As `_take_fp32`. Other names, so that one kind is never taken for the other."""
        moments = adamw_8bit.Moments8Bit.zeros(flat.numel(), flat.device)
        for name, parameter in self._parameters.items():
            start, count = starts[name], parameter.numel()
            codes = slice(start, start + count)
            blocks = slice(start // adamw_8bit.BLOCK, -(-(start + count) // adamw_8bit.BLOCK))
            self._moments |= {
                f"exp_avg.codes/{name}": moments.mean[codes].view(parameter.shape),
                f"exp_avg.absmax/{name}": moments.mean_absmax[blocks],
                f"exp_avg_sq.codes/{name}": moments.square[codes].view(parameter.shape),
                f"exp_avg_sq.absmax/{name}": moments.square_absmax[blocks],
            }
        kernel, reference = adamw_8bit.adamw_8bit_step, adamw_8bit.adamw_8bit_step_reference
        return partial(kernel if flat.is_cuda else reference, flat, self._grad, moments, steps)

    def step(self, rate: float, *, divisor: float = 1.0) -> Tensor:
        """Update by the gradients gathered since the last step, and set them to zero.

        Args:
            rate: the learning rate of this step.
            divisor: of the gradients: the update's trained tokens, where losses were summed.

        Returns:
            The divided gradient's norm before the clip, fp32 ``[]`` on the device. Where it is not
            finite nothing was updated.
        """
        if divisor != 1.0:
            self._grad.div_(divisor)
        return self._update(rate, self._settings)

    @property
    def gradients(self) -> Tensor:
        """Gathered since the last step, as one buffer, fp32."""
        return self._grad

    def zero_grad(self) -> None:
        """Drop the gradients gathered so far."""
        self._grad.zero_()

    def moments(self) -> dict[str, Tensor]:
        """What a checkpoint must hold, by name; copy into these tensors to go on from one."""
        return self._moments
