"""Whether `layers/loss_head.py` can take over a model's head, proven by the model itself.

A head is read from the model and its configuration. On random tokens the losses of `model(...).logits` must come out of
the backbone's hidden states and the head as well: so a family that does something else to its logits is found out here,
and keeps its own head.
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....kernels.accuracy import relative_rms_error
from ..layers.loss_head import LossHead

log = logging.getLogger(__name__)

_TOKENS = 24
"""Random tokens of the proof."""


_FACTOR = 2.0
"""How many roundings may lie between the model's own results and ours."""


def read_head(model: Any, *, ids: Tensor | None = None) -> tuple[LossHead | None, str]:
    """The model's head if it is one that `LossHead` describes, and why (not), in words for the screen.

    Args:
        model: a causal model of transformers, or a PEFT model round it, on its device.
        ids: int64 ``[1, tokens]`` for the proof; random ones by default.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    layer = base.get_output_embeddings()
    if type(layer) is not torch.nn.Linear:
        return None, "stock: the output layer is quantised, has an adapter or is missing"
    if layer.weight.requires_grad:
        return None, "stock: the output layer is trained"
    text = base.config.get_text_config()
    scaling = getattr(text, "logits_scaling", None)
    head = LossHead(
        layer.weight.detach(),
        None if layer.bias is None else layer.bias.detach(),
        getattr(text, "final_logit_softcapping", None),
        1.0 / scaling if scaling else getattr(text, "logit_scale", None) or 1.0,
    )
    try:
        return (head, "fast: gives the model's own losses") if _proven(base, head, ids) else (
            None, "stock: the model does something else to its logits"
        )  # fmt: skip
    except Exception as error:  # a head that cannot be tried is not used, whatever the reason
        log.warning("the proof of the loss head failed", exc_info=True)
        return None, f"stock: the proof failed with {type(error).__name__}: {error}"


def _proven(base: Any, head: LossHead, ids: Tensor | None) -> bool:
    """Whether losses, and the hidden states' gradient, are the model's own."""
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
    rounding = torch.finfo(logits.dtype).eps
    # Losses are differences of logits: what a rounding of the largest logit can do to them.
    allowed = _FACTOR * rounding * logits.detach().abs().max().float() + 1e-5
    close = (got - want).abs().max() <= allowed
    return bool(close) and relative_rms_error(grad, want_grad) <= _FACTOR * rounding + 1e-5
