"""Packed attention: many documents in one row, none of which sees another.

Registered with transformers under the name `evenfall_packed`, so models keep their own attention
modules and call this instead of theirs. Documents are bounded by `cu_seq_lens_q` (int32, [D + 1], on
the device) and `document_lengths` (the same on the host, so that no step waits for the device). On a
GPU that has it, torch's variable-length flash attention runs all documents in one launch; elsewhere,
and for soft-capped scores, each document goes through torch's own attention by itself. No mask is
ever built: under this name transformers builds none.

Families whose attention needs more than the arguments here (sinks, latent heads, linear attention)
are not in `FAMILIES`: they keep the stock attention and train one document a row, so they are
never wrong, only slower.
"""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "evenfall_packed"

FAMILIES = frozenset(
    {
        "llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text",
        "phi3", "smollm3", "granite", "olmo2", "olmo3", "seed_oss", "helium", "starcoder2",
    }
)  # fmt: skip
"""transformers' `model_type`s whose attention calls carry all that is needed here."""

try:
    from torch.nn.attention.varlen import varlen_attn

    _VARLEN_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters
except ImportError:  # a torch built without it
    varlen_attn = None
    _VARLEN_GQA = False


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    document_lengths: tuple[int, ...] | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document.

    Args:
        query: [B, H, T, D]; key and value: [B, H_kv, T, D] with H a multiple of H_kv.
        scaling: factor on the scores; default 1 / sqrt(D).
        sliding_window: a token sees itself and this many - 1 before it; None: all before it.
        softcap: scores become softcap * tanh(scores / softcap) (Gemma 2).
        document_lengths: lengths that sum to T, for B = 1; None: every row is one document.
        cu_seq_lens_q: the same as offsets on the device, int32 [D + 1].

    Returns:
        ([B, T, H, D] in query's dtype, None), as transformers expects.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if document_lengths is None or query.shape[0] != 1:
        if document_lengths is not None:
            raise ValueError(f"packed documents come in one row, got {query.shape[0]}")
        parts = [_one_document(query, key, value, scale, dropout, sliding_window, softcap)]
    elif (
        varlen_attn is not None
        and cu_seq_lens_q is not None
        and query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and not softcap
        and not dropout
    ):
        return _flash_varlen(
            query, key, value, scale, sliding_window, document_lengths, cu_seq_lens_q
        ), None
    else:
        parts, start = [], 0
        for length in document_lengths:
            q, k, v = (x[:, :, start : start + length] for x in (query, key, value))
            parts.append(_one_document(q, k, v, scale, dropout, sliding_window, softcap))
            start += length
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return out.transpose(1, 2), None


def _flash_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    sliding_window: int | None,
    document_lengths: tuple[int, ...],
    cu_seq_lens: torch.Tensor,
) -> torch.Tensor:
    assert varlen_attn is not None
    options: dict[str, Any] = {}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and _VARLEN_GQA:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    longest = max(document_lengths)
    left = sliding_window - 1 if sliding_window and sliding_window < longest else -1
    out = varlen_attn(
        q, k, v, cu_seq_lens, cu_seq_lens, longest, longest,
        scale=scaling, window_size=(left, 0), **options,
    )  # fmt: skip
    assert isinstance(out, torch.Tensor)
    return out[None]


def _one_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    dropout: float,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """[B, H, L, D] for a document of L tokens."""
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    window = sliding_window if sliding_window and sliding_window < length else None
    if not softcap and window is None:
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling,
            enable_gqa=groups > 1,
        )  # fmt: skip
    at = torch.arange(length, device=query.device)
    hidden = at[None, :] > at[:, None]
    if window is not None:
        hidden = hidden | (at[None, :] <= at[:, None] - window)
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    weights = torch.softmax(scores.float().masked_fill(hidden, float("-inf")), dim=-1)
    weights = F.dropout(weights.to(query.dtype), dropout)
    return weights @ value


AttentionInterface.register(NAME, packed_attention)
