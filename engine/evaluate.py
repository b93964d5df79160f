"""The loss of a batch, and its mean over held-out rows."""

import torch
import torch.nn.functional as F

from .data.batch import Batch
from .data.prepare import Bins
from .state import Run
from .updates import micro_batches


def loss_sum(model: torch.nn.Module, batch: Batch, packed: bool) -> torch.Tensor:
    """Cross-entropy summed over a batch's trained tokens, float32 [].

    Only the positions that predict a trained token go through the head (`logits_to_keep` takes their
    indices), so logits are [trained tokens, vocabulary], and the model's own soft-caps and scales
    apply. Without `packed` the batch is one document and the attention the model's own.
    """
    bounds = (
        {
            "position_ids": batch.position_ids,
            "document_lengths": batch.lengths,
            "cu_seq_lens_q": batch.cu_seqlens,
        }
        if packed
        else {}
    )
    logits = model(
        input_ids=batch.input_ids, use_cache=False, logits_to_keep=batch.label_positions, **bounds
    ).logits[0]
    return F.cross_entropy(logits.float(), batch.labels, reduction="sum")


def evaluate(run: Run, bins: Bins) -> float:
    """Mean loss over the trained tokens of held-out bins."""
    total, trained = torch.zeros((), device=run.device), 0
    run.model.eval()
    try:
        with torch.no_grad():
            for batch in micro_batches(bins, range(len(bins)), run.config, run.packed):
                total += loss_sum(run.model, batch.to(run.device), run.packed)
                trained += batch.trained_tokens
    finally:
        run.model.train()
    return total.item() / max(1, trained)
