"""The mean loss over held-out rows."""

import torch

from ..config.run_config import RunConfig
from ..data.pack.windows import Bins
from ..model.trained import TrainedModel
from .objectives.sft import loss_sum
from .updates import micro_batches


def evaluate(model: TrainedModel, bins: Bins, config: RunConfig) -> float:
    """Mean loss over the trained tokens of held-out bins."""
    total, trained = torch.zeros((), device=model.device), 0
    model.model.eval()
    try:
        with torch.no_grad():
            chosen = [bins.rows(index) for index in range(len(bins))]
            for batch in micro_batches(chosen, config, model.packed):
                total += loss_sum(model, batch.to(model.device))
                trained += batch.trained_tokens
    finally:
        model.model.train()
    return total.item() / max(1, trained)
