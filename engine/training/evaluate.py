"""The loss of a batch, and its mean over held-out rows."""

import torch

from ..data.pack.windows import Bins
from .objectives.sft import loss_sum
from .state import Run
from .updates import micro_batches


def evaluate(run: Run, bins: Bins) -> float:
    """Mean loss over the trained tokens of held-out bins."""
    total, trained = torch.zeros((), device=run.device), 0
    run.model.eval()
    try:
        with torch.no_grad():
            chosen = [bins.rows(index) for index in range(len(bins))]
            for batch in micro_batches(chosen, run.config, run.packed):
                total += loss_sum(run, batch.to(run.device))
                trained += batch.trained_tokens
    finally:
        run.model.train()
    return total.item() / max(1, trained)
