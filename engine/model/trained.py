"""TrainedModel: the model that a run trains, with all that a forward of it takes.

A loss, an evaluation and a memory plan need this much of a run and no more.
"""

from dataclasses import dataclass

import torch
from peft import PeftModel

from .layers.loss_head import LossHead
from .layers.packed_attention import STOCK_WAYS, Ways


@dataclass(kw_only=True)
class TrainedModel:
    """A base with its adapter, on its device."""

    model: PeftModel
    device: torch.device
    packed: bool
    """False: the model's attention is stock, one document a row."""
    ways: Ways = STOCK_WAYS
    """How packed attention is computed."""
    head: LossHead | None = None
    """Computes losses without the logits; None: the model's own head does."""
