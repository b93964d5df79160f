"""Supervised fine-tuning, and continued pre-training: the cross-entropy of the tokens that are learnt."""

import functools
import inspect
from typing import Any

import torch
import torch.nn.functional as F

from ...data.pack.batch import Batch
from ...model.base import base_of
from ...model.layers.packed_attention import Documents
from ...model.trained import TrainedModel


def loss_sum(trained: TrainedModel, batch: Batch) -> torch.Tensor:
    """Cross-entropy summed over a batch's trained tokens, float32 [].

    Only the positions that predict a trained token go through the head. Where it is the model's own
    (`logits_to_keep` takes their indices) logits are [trained tokens, vocabulary], and its soft-caps
    and scales apply. Without packed attention the batch is one document. A few models of transformers
    swallow `logits_to_keep` without a word: they compute all logits, [tokens, vocabulary].
    """
    bounds: dict[str, Any] = (
        {
            "position_ids": batch.position_ids,
            "documents": Documents(lengths=batch.lengths, bounds=batch.cu_seqlens, ways=trained.ways),
        }
        if trained.packed
        else {}
    )
    if trained.head is not None:
        losses = trained.head.losses(
            trained.model, batch.labels, batch.label_positions, input_ids=batch.input_ids, **bounds
        )
        return losses.sum()
    keeps = _takes_positions(type(base_of(trained.model)))
    if keeps:
        bounds["logits_to_keep"] = batch.label_positions
    logits = trained.model(input_ids=batch.input_ids, use_cache=False, **bounds).logits[0]
    if not keeps:
        logits = logits[batch.label_positions]
    return F.cross_entropy(logits.float(), batch.labels, reduction="sum")


@functools.cache
def _takes_positions(model: type) -> bool:
    """Whether a causal model computes logits only where it is told to."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
