"""Which way packed attention goes on this very device: the fastest of those that are proven on it.

The candidates (`attention.Way`) are judged against attention document by document through torch's own operators,
forward and gradients, with the model's heads, window and soft-cap. Those that pass are timed on documents as long
as the run's own; so the choice needs no table of GPUs, and takes a fraction of a second. A model whose attention is
not `attention.py`'s keeps its own.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....kernels.accuracy import Comparison, relative_rms_error
from ..base import base_of
from ..layers.packed_attention import NAME, STOCK_WAYS, Documents, Way, Ways, attend
from .part import PatchedPart
from .proof import Proof, hidden_dtype, no_kernels_on, prove, stock_part

log = logging.getLogger(__name__)

_LENGTHS = (67, 1, 190, 42)
"""Documents of the proof: shorter and longer than a tile, and astride of tiles."""

_EQUAL = (100, 100, 100)

_WINDOW = 50
"""Of the proof: one longer than its documents would prove nothing."""

_TENSORS = ("out", "grad query", "grad key", "grad value")

_NAME = "packed attention"

_WORDS: dict[Way, str] = {
    "rows": "torch's batched attention", "kernel": "our kernel", "flash": "torch's flash attention",
}  # fmt: skip

_REPEATS = 5

_TIMED = 32_768
"""Tokens that are timed at most: more would tell no more, and take memory."""


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """Sizes of a model's attention."""

    query: int
    key: int
    size: int
    softcap: float | None
    window: int | None


def patch_attention(
    model: Any,
    device: torch.device | str,
    lengths: Sequence[int] = (),
    *,
    force: bool = False,
) -> tuple[Ways, PatchedPart | None]:
    """Find the ways for a model.

    Args:
        model: a causal model of transformers, or a PEFT model round it, on `device`.
        lengths: of the documents of one of the run's micro-batches, to be timed; none: nothing is, and
            of the proven ways the first of each kind is taken.
        force: although no Triton kernel runs on `device` by itself (tests in the interpreter).

    Returns:
        The ways, and what became of them in words; None where the model's attention is not packed.
    """
    device = torch.device(device)
    base = base_of(model)
    config = base.config.get_text_config()
    if config._attn_implementation != NAME:
        return STOCK_WAYS, None
    layers = config.num_hidden_layers
    if blocked := "" if force else no_kernels_on(device):
        return STOCK_WAYS, stock_part(_NAME, _NAME, layers, blocked)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = _Heads(
        query=config.num_attention_heads,
        key=config.num_key_value_heads,
        size=size,
        softcap=getattr(config, "attn_logit_softcapping", None),
        window=getattr(config, "sliding_window", None),
    )
    return _find_ways(heads, device, hidden_dtype(base), tuple(lengths), layers)


def _find_ways(
    heads: _Heads, device: torch.device, dtype: torch.dtype, lengths: tuple[int, ...], layers: int
) -> tuple[Ways, PatchedPart]:
    proofs: dict[Way, Proof] = {}
    candidates: tuple[Way, ...] = ("kernel",) if heads.softcap else ("kernel", "flash", "rows")
    for way in candidates:
        compare = partial(_compare, way, heads, device, dtype)
        proofs[way] = prove(_WORDS[way], compare, device)
    proven: list[Way] = [way for way in candidates if proofs[way].passed]
    unequal: list[Way] = [way for way in proven if way != "rows"]
    ways = STOCK_WAYS
    if unequal and heads.softcap:
        ways = replace(ways, softcapped=unequal[0])
    elif unequal:
        ways = replace(ways, mixed=unequal[0], windowed=unequal[0])
    more = ""
    times: dict[Way, float] = {}
    equal = len(set(lengths)) == 1
    if lengths and len(proven) > 1:
        try:
            times = _time(proven if equal else unequal, heads, device, dtype, _some(lengths))
        except Exception:  # out of memory above all, and that is for the loop to answer
            log.warning("packed attention was not timed", exc_info=True)
            times = {}
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if times:
        best = min(times, key=lambda way: times[way])
        ways = replace(ways, equal=best) if equal else replace(ways, mixed=best)
        kind = f"rows of {lengths[0]:,}" if equal else f"{len(lengths)} documents"
        told = ", ".join(f"{_WORDS[way]} {ms:.2f} ms" for way, ms in sorted(times.items()))
        more = f"; {kind} in {_WORDS[best]}, the fastest here ({told})"
    return ways, proofs["kernel"].part(_NAME, _NAME, layers, more=more)


def _compare(way: Way, heads: _Heads, device: torch.device, dtype: torch.dtype) -> list[Comparison]:
    lengths = _EQUAL if way == "rows" else _LENGTHS
    windows = {None, _WINDOW} if heads.window and way != "rows" else {None}
    results = []
    for window in windows:
        q, k, v, dout = _operands(heads, device, dtype, sum(lengths))
        got = _run(_all(way), lengths, window, heads.softcap, (q, k, v), dout)
        eager = _run(_all("each"), lengths, window, heads.softcap, (q, k, v), dout)
        wide = (q.double(), k.double(), v.double())
        exact = _run(_all("each"), lengths, window, heads.softcap, wide, dout.double())
        for name, *tensors in zip(_TENSORS, got, eager, exact, strict=True):
            error, eager_error = (relative_rms_error(t, tensors[2]) for t in tensors[:2])
            results.append(
                Comparison(
                    tensor=name,
                    error=error,
                    eager_error=eager_error,
                    rounding=torch.finfo(dtype).eps / 2,
                )
            )
    return results


def _time(
    ways: Sequence[Way],
    heads: _Heads,
    device: torch.device,
    dtype: torch.dtype,
    lengths: tuple[int, ...],
) -> dict[Way, float]:
    """Milliseconds of forward and backward on documents of these lengths, one of several in a row: the
    launches of one hide behind what the one before has launched, as they do in a step."""
    *operands, dout = _operands(heads, device, dtype, sum(lengths))
    q, k, v = operands
    times: dict[Way, float] = {}
    for way in ways:
        for repeats in (2, _REPEATS):  # the first ones compile and plan
            start = time.perf_counter()
            for _ in range(repeats):
                _run(_all(way), lengths, None, None, (q, k, v), dout)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[way] = 1e3 * (time.perf_counter() - start) / repeats
    return times


def _some(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """As many of the first documents as make `_TIMED` tokens, and one at least."""
    ends = itertools.accumulate(lengths)
    count = sum(end <= _TIMED for end in ends)
    return lengths[: max(1, count)]


def _all(way: Way) -> Ways:
    return Ways(equal=way, mixed=way, windowed=way, softcapped=way)


def _operands(
    heads: _Heads, device: torch.device, dtype: torch.dtype, tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k and v, ``[1, heads, tokens, size]``, as slices of a fused projection, and out's gradient."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(count: int) -> Tensor:
        shape = (1, tokens, count, heads.size)
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    parts = [heads.query, heads.key, heads.key]
    q, k, v = (t.transpose(1, 2) for t in normal(sum(parts)).split(parts, dim=2))
    return q, k, v, normal(heads.query)


def _run(
    ways: Ways,
    lengths: tuple[int, ...],
    window: int | None,
    softcap: float | None,
    heads: tuple[Tensor, Tensor, Tensor],
    dout: Tensor,
) -> list[Tensor]:
    """Output and gradients."""
    ends = torch.tensor((0, *lengths)).cumsum(0)
    documents = Documents(lengths=lengths, bounds=ends.to(dout.device, torch.int32), ways=ways)
    query, key, value = (t.detach().requires_grad_() for t in heads)
    with torch.enable_grad(), torch.autocast(dout.device.type, enabled=False):
        out, _ = attend(
            torch.nn.Module(), query, key, value, None,
            sliding_window=window, softcap=softcap, documents=documents,
        )  # fmt: skip
        return [out.detach(), *torch.autograd.grad(out, (query, key, value), dout)]
