"""Whether `layers/loss_head.py` can take over a model's head, proven by the model itself.

A head is read from the model and its configuration. On random tokens the losses of `model(...).logits` must come out of
the backbone's hidden states and the head as well: so a family that does something else to its logits is found out here,
and keeps its own head.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....kernels.accuracy import Comparison, relative_rms_error
from ..base import base_of
from ..layers.loss_head import LossHead
from .part import PatchedPart
from .proof import prove, stock_part

_NAME = "loss head"

_TOKENS = 24
"""Random tokens of the proof."""


_FACTOR = 2.0
"""How many roundings may lie between the model's own results and ours."""


def read_head(model: Any, *, ids: Tensor | None = None) -> tuple[LossHead | None, PatchedPart]:
    """The model's head if it is one that `LossHead` describes, and what became of it.

    Args:
        model: a causal model of transformers, or a PEFT model round it, on its device.
        ids: int64 ``[1, tokens]`` for the proof; random ones by default.
    """
    base = base_of(model)
    layer = base.get_output_embeddings()
    if type(layer) is not torch.nn.Linear:
        reason = "stock: the output layer is quantised, has an adapter or is missing"
        return None, stock_part(_NAME, _NAME, 1, reason)
    if layer.weight.requires_grad:
        return None, stock_part(_NAME, _NAME, 1, "stock: the output layer is trained")
    text = base.config.get_text_config()
    scaling = getattr(text, "logits_scaling", None)
    head = LossHead(
        weight=layer.weight.detach(),
        bias=None if layer.bias is None else layer.bias.detach(),
        softcap=getattr(text, "final_logit_softcapping", None),
        logit_scale=1.0 / scaling if scaling else getattr(text, "logit_scale", None) or 1.0,
    )
    proof = prove("the loss head", lambda: _compare(base, head, ids), layer.weight.device)
    if proof.passed:
        proof = replace(proof, reason="fast: gives the model's own losses")
    elif proof.worst is not None:
        proof = replace(proof, reason="stock: the model does something else to its logits")
    return head if proof.passed else None, proof.part(_NAME, _NAME, 1)


def _compare(base: Any, head: LossHead, ids: Tensor | None) -> list[Comparison]:
    """Losses, and the hidden states' gradient, beside the model's own."""
    device = head.weight.device
    if ids is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(head.weight.shape[0], (1, _TOKENS), generator=generator).to(device)
    labels, states = ids[0].roll(-1), []

    def cut(module: Any, args: Any, output: Any) -> Any:
        """Let gradients end at the hidden states, and keep these."""
        output.last_hidden_state = output.last_hidden_state.detach().requires_grad_()
        states.append(output.last_hidden_state)
        return output

    handle = base.base_model.register_forward_hook(cut)
    training = base.training
    base.eval()
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            logits = base(input_ids=ids, use_cache=False).logits[0]
            want = F.cross_entropy(logits.float(), labels, reduction="none")
            (want_grad,) = torch.autograd.grad(want.sum(), states)
            got = head.of_hidden(states[0][0], labels)
            (grad,) = torch.autograd.grad(got.sum(), states)
    finally:
        handle.remove()
        base.train(training)
    rounding = _FACTOR * torch.finfo(logits.dtype).eps
    # Losses are differences of logits: what a rounding of the largest logit can do to them.
    largest = logits.detach().abs().max().item()
    off = (got - want).abs().max().item() / largest
    return [
        Comparison(tensor="losses", error=off, eager_error=0.0, rounding=rounding + 1e-5 / largest),
        Comparison(
            tensor="grad hidden",
            error=relative_rms_error(grad, want_grad),
            eager_error=0.0,
            rounding=rounding + 1e-5,
        ),
    ]
