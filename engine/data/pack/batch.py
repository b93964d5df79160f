"""The packed batch that the loop takes.

Documents lie end to end in one row of T tokens, unpadded. `cu_seqlens` bounds attention to each of
them and `position_ids` starts again at 0, so a packed batch gives the numbers that its documents
give alone. Labels are an index of positions, not a masked copy of the ids: the head then computes
logits for these rows only, and knows how many they are without asking the GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from .examples import Example


@dataclass(frozen=True, kw_only=True)
class Batch:
    """T tokens of D documents, M of them learnt."""

    input_ids: torch.Tensor
    """int64 [1, T]."""
    position_ids: torch.Tensor
    """int64 [1, T]; 0 at the start of each document."""
    cu_seqlens: torch.Tensor
    """int32 [D + 1]; document d is tokens cu_seqlens[d] to cu_seqlens[d + 1]."""
    label_positions: torch.Tensor
    """int64 [M], ascending: positions in T whose next token (of the same document) is learnt."""
    labels: torch.Tensor
    """int64 [M]: these next tokens."""
    lengths: tuple[int, ...]
    """Tokens of each document, on the host."""
    tokens: int
    """T."""
    trained_tokens: int
    """M."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "Batch":
        """A copy on `device`. To a GPU it goes through pinned memory, so that the copy overlaps
        with what the GPU is at and the host does not wait."""
        device = torch.device(device)
        moved = {}
        for name in ("input_ids", "position_ids", "cu_seqlens", "label_positions", "labels"):
            tensor = getattr(self, name)
            if device.type == "cuda" and tensor.device.type == "cpu":
                tensor = tensor.pin_memory()
            moved[name] = tensor.to(device, non_blocking=non_blocking)
        return replace(self, **moved)


def collate(examples: Sequence[Example]) -> Batch:
    """Lay examples end to end.

    Raises:
        ValueError: there are none.
    """
    if not examples:
        raise ValueError("a batch needs an example")
    lengths = tuple(len(example) for example in examples)
    ids = np.concatenate([example.ids for example in examples]).astype(np.int64)
    learnt = np.flatnonzero(np.concatenate([_learnt(example) for example in examples]))
    return Batch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))[None],
        cu_seqlens=torch.from_numpy(np.cumsum((0, *lengths), dtype=np.int32)),
        label_positions=torch.from_numpy(learnt - 1),
        labels=torch.from_numpy(ids[learnt]),
        lengths=lengths,
        tokens=len(ids),
        trained_tokens=len(learnt),
    )


def _learnt(example: Example) -> np.ndarray:
    # A first token's predecessor would be another document's last token.
    learnt = example.trained.copy()
    learnt[:1] = False
    return learnt
