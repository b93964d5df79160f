"""The loss without the logits: a causal model's head taken over by `kernels/linear_cross_entropy.py`.

A head is the output weight with what the family does to logits afterwards: Gemma 2 soft-caps them, Granite divides
them. Whether a model's head is one of these is proven in `patch/loss_head.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....kernels.linear_cross_entropy import linear_cross_entropy
from ..base import base_of


class _Rows(torch.autograd.Function):
    """Some rows of a matrix, each at most once: so the gradient is copied back. torch's own adds it up
    atomically, since it cannot know."""

    @staticmethod
    def forward(ctx, matrix: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.count = matrix.shape[0]
        return matrix.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.count, grad.shape[1]).index_copy_(0, rows, grad), None


@dataclass(frozen=True, kw_only=True)
class LossHead:
    """A frozen output weight and what is done to its logits."""

    weight: Tensor
    """``[vocabulary, hidden]``."""
    bias: Tensor | None
    softcap: float | None
    logit_scale: float

    def losses(self, model: Any, labels: Tensor, positions: Tensor, **inputs: Any) -> Tensor:
        """Cross-entropy of each label, fp32 ``[M]``.

        Args:
            model: the causal model, or a PEFT model round it.
            labels: int64 ``[M]``.
            positions: int64 ``[M]``, none twice: tokens of the (one) row whose hidden states predict
                them.
            inputs: of the model's forward.
        """
        base = base_of(model)
        hidden = base.base_model(use_cache=False, **inputs).last_hidden_state[0]
        rows = _Rows.apply(hidden, positions)
        assert isinstance(rows, Tensor)  # apply() is typed as returning anything
        return self.of_hidden(rows, labels)

    def of_hidden(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each label, fp32 ``[M]``, from the ``[M, hidden]`` states before it."""
        return linear_cross_entropy(
            hidden, self.weight, labels,
            bias=self.bias, softcap=self.softcap, logit_scale=self.logit_scale,
        )  # fmt: skip
