"""Spend the memory that is there on the most speed per byte.

First version: how much each layer saves for its backward (`decoder.ActivationLevel`), then whether the base weights
stay
dequantised. With the bytes that a layer takes at each level, all layers start at the least, and are raised in
the order of what a byte buys:

    layer -> cheap    the layer's forward is not computed a second time     10.5 H for 8 H^2 or so of matmuls
    cheap -> kept     nor its norms                                          2 H
    weights kept      nor its weights dequantised, twice a step

Nothing here changes a number: every level computes the same bits. What cannot be counted beforehand (the
allocator's rounding, libraries' workspaces) is what the margin is for; a run that runs out of memory all the same
plans again with a wider one (`recovery.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...kernels.linear_cross_entropy import CHUNK_BYTES
from ..model.layers.decoder import ActivationLevel, LayerParts
from .cost import adapter_bytes, passing_bytes, saved_bytes, weight_bytes

LEVELS: tuple[ActivationLevel, ...] = ("layer", "cheap", "kept")
"""From the least saved to the most."""

MARGIN = 0.06
"""Part of the GPU's memory that no plan spends; a recovery widens it."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How many layers save how much, and how many keep their weights dequantised."""

    kept: int
    cheap: int
    recomputed: int
    cached: int
    activations: int
    """Bytes, in all layers at the end of a forward."""
    weights: int
    """Bytes of dequantised weights."""

    @property
    def saves_more(self) -> bool:
        """Whether it saves more than it must: there is something to give up."""
        return bool(self.kept or self.cheap or self.cached)

    def levels(self) -> list[ActivationLevel]:
        """Of each layer from the first: the last layers' activations are let go first, so they are
        those that save the most."""
        counts: dict[ActivationLevel, int] = {
            "layer": self.recomputed, "cheap": self.cheap, "kept": self.kept,
        }  # fmt: skip
        return [level for level, count in counts.items() for _ in range(count)]


def plan_memory(
    layers: Sequence[LayerParts],
    tokens: int,
    free: int,
    total: int,
    *,
    recompute: bool = False,
    margin: float = MARGIN,
) -> MemoryPlan:
    """The fastest plan that fits.

    Args:
        layers: the fast layers, alike or not.
        tokens: of the largest micro-batch.
        free: bytes that this process may still take.
        total: the device's, or this process's share of it.
        recompute: recompute every layer and keep no weights, whatever there is.
        margin: part of `total` to leave alone.
    """
    if recompute or not layers:
        held = sum(saved_bytes(parts, tokens, "layer") for parts in layers)
        return MemoryPlan(kept=0, cheap=0, recomputed=len(layers), cached=0, activations=held, weights=0)
    size = layers[0].qkv.dtype.itemsize
    passing = max(passing_bytes(parts, tokens) for parts in layers)
    # A forward that is computed again holds a whole layer at its backward.
    again = max(saved_bytes(parts, tokens, "kept") for parts in layers)
    # The chunk of logits, its fp32 statistics, and the head's gradient of the hidden states.
    head = 2 * CHUNK_BYTES + 4 * tokens * layers[0].qkv.in_features * size
    adapters = sum(adapter_bytes(parts) for parts in layers)
    room = free - int(margin * total) - passing - head - adapters
    need = {level: [saved_bytes(parts, tokens, level) for parts in layers] for level in LEVELS}
    held = sum(need["layer"])
    count = len(layers)
    levels = [0] * count
    for level in (1, 2):
        if level == 2 and 0 in levels:
            break
        for index in reversed(range(count)):
            more = need[LEVELS[level]][index] - need[LEVELS[level - 1]][index]
            recomputed = any(n == 0 for n in levels[:index])
            if levels[index] == level - 1 and held + more + recomputed * again <= room:
                levels[index], held = level, held + more
    cached = weights = 0
    if min(levels) == 2:
        for parts in layers:
            more = weight_bytes(parts)
            if held + weights + more > room:
                break
            cached, weights = cached + 1, weights + more
    kept, cheap = levels.count(2), levels.count(1)
    return MemoryPlan(
        kept=kept,
        cheap=cheap,
        recomputed=count - kept - cheap,
        cached=cached,
        activations=held,
        weights=weights,
    )
