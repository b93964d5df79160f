"""The loss of a batch, and its mean over held-out rows."""

import torch
import torch.nn.functional as F

from ..data.pack.batch import Batch
from ..data.pack.windows import Bins
from ..model.layers.packed_attention import Documents
from .state import Run
from .updates import micro_batches


def loss_sum(run: Run, batch: Batch) -> torch.Tensor:
    """Cross-entropy summed over a batch's trained tokens, float32 [].

    Only the positions that predict a trained token go through the head. Where it is the model's own
    (`logits_to_keep` takes their indices) logits are [trained tokens, vocabulary], and its soft-caps
    and scales apply. Without packed attention the batch is one document.
    """
    bounds = (
        {
            "position_ids": batch.position_ids,
            "documents": Documents(batch.lengths, batch.cu_seqlens, run.ways),
        }
        if run.packed
        else {}
    )
    if run.head is not None:
        losses = run.head.losses(
            run.model, batch.labels, batch.label_positions, input_ids=batch.input_ids, **bounds
        )
        return losses.sum()
    logits = run.model(
        input_ids=batch.input_ids, use_cache=False, logits_to_keep=batch.label_positions, **bounds
    ).logits[0]
    return F.cross_entropy(logits.float(), batch.labels, reduction="sum")


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
