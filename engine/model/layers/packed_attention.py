"""Packed attention: many documents in one row, none of which sees another.

Registered with transformers under the name `evenfall_packed`, so models keep their own attention
modules and call this instead of theirs; `fast_layer.py` calls what `choose` names by itself. No mask
is ever built: under this name transformers builds none. The ways:

* rows     documents of one length, as a batch, through torch's own attention: cuDNN on Hopper, flash
           attention elsewhere, and on a CPU too;
* kernel   documents of any lengths, windows and soft-caps through `kernels/packed_attention.py`;
* flash    documents of any lengths and windows through torch's variable-length flash attention;
* each     document by document, where none of these can run.

Which way is taken for which kind of documents is in `Ways`; `patch/attention.py` fills it with what is
proven and fastest on this device.

Families whose attention needs more than the arguments here (sinks, latent heads, linear attention)
have no `packed` in the table of families: they keep the stock attention and train one document a row, so they are
never wrong, only slower.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from ....kernels.packed_attention import document_bounds, packed_attention

NAME = "evenfall_packed"

try:
    from torch.nn.attention.varlen import varlen_attn

    _FLASH_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters
except ImportError:  # a torch built without it
    varlen_attn = None
    _FLASH_GQA = False

Way = Literal["rows", "kernel", "flash", "each"]


@dataclass(frozen=True, kw_only=True)
class Ways:
    """The way for each kind of documents. The defaults are right everywhere."""

    equal: Way = "rows"
    """All of one length."""
    mixed: Way = "each"
    windowed: Way = "each"
    """Of any lengths, with a sliding window that is shorter than the longest."""
    softcapped: Way = "each"
    """With a soft-cap on the scores, and maybe a window."""


STOCK_WAYS = Ways()
"""What is right everywhere, by torch's own attention."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Documents:
    """The documents of a packed row, made once a batch and handed to every layer."""

    lengths: tuple[int, ...]
    """On the host, so that no step waits for the device."""
    bounds: Tensor
    """The same as offsets on the device, int32 [D + 1]."""
    ways: Ways = STOCK_WAYS
    spans: tuple[Tensor, Tensor] | None = None
    """What `per_token` says, where it is known already."""

    @cached_property
    def longest(self) -> int:
        return max(self.lengths)

    @cached_property
    def equal(self) -> bool:
        return len(set(self.lengths)) == 1

    @cached_property
    def per_token(self) -> tuple[Tensor, Tensor]:
        """First token and end of each token's document, int32 [T] each, on the device."""
        return self.spans or document_bounds(self.bounds, sum(self.lengths))


def choose(
    documents: Documents,
    *,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Way:
    """How attention inside these documents is computed."""
    if dropout:
        return "each"
    if softcap:
        return documents.ways.softcapped
    if sliding_window and sliding_window < documents.longest:
        return documents.ways.windowed
    return documents.ways.equal if documents.equal else documents.ways.mixed


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    documents: Documents | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each document.

    Args:
        query: [B, H, T, D]; key and value: [B, H_kv, T, D] with H a multiple of H_kv.
        scaling: factor on the scores; default 1 / sqrt(D).
        sliding_window: a token sees itself and this many - 1 before it; None: all before it.
        softcap: scores become softcap * tanh(scores / softcap) (Gemma 2).
        documents: of the one row, lengths that sum to T; None: every row is one document.

    Returns:
        ([B, T, H, D] in query's dtype, None), as transformers expects.

    Raises:
        ValueError: there are documents and several rows.
    """
    # The backward of `squeeze(0)` is a view; that of `[0]` fills a tensor with zeros and copies to it.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    options = scale, dropout, sliding_window, softcap
    if documents is None:
        return _one_document(query, key, value, *options).transpose(1, 2), None
    if query.shape[0] != 1:
        raise ValueError(f"packed documents come in one row, got {query.shape[0]}")
    way = choose(documents, dropout=dropout, sliding_window=sliding_window, softcap=softcap)
    if way == "rows":
        count = len(documents.lengths)
        q, k, v = (x.squeeze(0).unflatten(1, (count, -1)).transpose(0, 1) for x in (query, key, value))
        out = _one_document(q, k, v, *options)
        return out.transpose(1, 2).flatten(0, 1)[None], None
    if way == "kernel":
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        out = packed_attention(q, k, v, *documents.per_token, scale=scale, window=sliding_window, softcap=softcap)
        return out[None], None
    if way == "flash":
        return _flash(query, key, value, scale, sliding_window, documents)[None], None
    parts, start = [], 0
    for length in documents.lengths:
        q, k, v = (x[:, :, start : start + length] for x in (query, key, value))
        parts.append(_one_document(q, k, v, *options))
        start += length
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    sliding_window: int | None,
    documents: Documents,
) -> Tensor:
    """[T, H, D]."""
    assert varlen_attn is not None
    groups = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {"enable_gqa": True} if groups > 1 and _FLASH_GQA else {}
    if groups > 1 and not _FLASH_GQA:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    longest, bounds = documents.longest, documents.bounds
    left = sliding_window - 1 if sliding_window and sliding_window < longest else -1
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=(left, 0), **options)
    assert isinstance(out, Tensor)
    return out


def _one_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    dropout: float,
    sliding_window: int | None,
    softcap: float | None,
) -> Tensor:
    """[B, H, L, D] for B documents of L tokens."""
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


AttentionInterface.register(NAME, attend)
