"""Spend the memory that is there on the most speed per byte.

First version: how much each layer saves for its backward (`decoder.Level`), then whether the base weights stay
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

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from ...kernels.linear_cross_entropy import CHUNK_BYTES
from ..machine.device import free_bytes
from ..model.families.fast_layer import fast_states
from ..model.layers.decoder import LayerParts, Level
from ..model.load import set_recompute
from ..run.events import MemoryPlanned
from ..training.state import LoopState, Run

LEVELS: tuple[Level, ...] = ("layer", "cheap", "kept")
"""From the least saved to the most."""


@dataclass(frozen=True)
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

    def levels(self) -> list[Level]:
        """Of each layer from the first: the last layers' activations are let go first, so they are
        those that save the most."""
        counts: dict[Level, int] = {
            "layer": self.recomputed, "cheap": self.cheap, "kept": self.kept,
        }  # fmt: skip
        return [level for level, count in counts.items() for _ in range(count)]


def saved_bytes(parts: LayerParts, tokens: int, level: Level) -> int:
    """What a layer holds from its forward to its backward, its input included."""
    qkv, o, gate_up, down = parts.groups
    size = qkv.dtype.itemsize
    width = qkv.in_features
    per_token = width * size
    if level != "layer":
        per_token += (qkv.out_features + width) * size + o.input_bytes
        per_token += o.rank * size + 4 * parts.q_heads  # attention's log-sum-exps
        per_token += (gate_up.out_features + down.rank) * size + 8
        if parts.q_norm is not None:
            per_token += (parts.q_heads + parts.kv_heads) * (parts.head_dim * size + 4)
    if level == "kept":
        per_token += qkv.input_bytes + gate_up.input_bytes
        per_token += down.input_bytes if parts.dropout else 0
    per_token += sum(group.in_features for group in parts.groups if group.dropout)  # masks, bool
    return tokens * per_token


def passing_bytes(parts: LayerParts, tokens: int) -> int:
    """The most that one layer's backward needs beside what was saved, its forward's again included."""
    qkv, o, gate_up, down = parts.groups
    tall = gate_up.gradient_bytes + 2 * down.input_bytes
    wide = 2 * (qkv.input_bytes + o.gradient_bytes)
    return tokens * (tall + wide) + max(group.matrix_bytes for group in parts.groups)


def weight_bytes(parts: LayerParts) -> int:
    """A layer's matrices, dequantised."""
    return sum(group.matrix_bytes for group in parts.groups)


def adapter_bytes(parts: LayerParts) -> int:
    """A layer's adapters rounded to the compute dtype, as they are beside weights that are not kept."""
    return parts.qkv.dtype.itemsize * sum(
        g.extra * (g.in_features + g.extra) + g.extra * g.out_features for g in parts.groups
    )


def plan_memory(
    layers: Sequence[LayerParts],
    tokens: int,
    free: int,
    total: int,
    *,
    recompute: bool = False,
    margin: float = LoopState.memory_margin,
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
        return MemoryPlan(0, 0, len(layers), 0, held, 0)
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
    return MemoryPlan(kept, cheap, count - kept - cheap, cached, held, weights)


def fit_memory(run: Run) -> None:
    """Set what every layer saves by the run's configuration and the memory that is free now."""
    train = run.config.train
    set_recompute(run.model, train.gradient_checkpointing)
    states = fast_states(run.model)
    if not states or run.device.type != "cuda":
        return
    for state in states:
        state.parts.stream.clear()
        for group in state.parts.groups:
            group.keep_weights(False)
    gc.collect()  # failed steps and earlier models leave cycles that hold memory
    tokens = train.per_device_train_batch_size * run.config.data.max_length
    free, total = free_bytes(run.device)
    arch = run.model.config.get_text_config()
    if run.head is None:  # logits, their fp32 copy, and a gradient of each
        free -= 12 * tokens * arch.vocab_size
    stock = arch.num_hidden_layers - len(states)
    if stock > 0:  # they hold what they like: about twice as much as fast ones
        free -= stock * 2 * saved_bytes(states[0].parts, tokens, "kept")
    plan = plan_memory(
        [state.parts for state in states], tokens, free, total,
        recompute=train.gradient_checkpointing, margin=run.state.memory_margin,
    )  # fmt: skip
    for index, (state, level) in enumerate(zip(states, plan.levels(), strict=True)):
        state.level = level
        for group in state.parts.groups:
            group.keep_weights(index < plan.cached)
    run.saves_more = bool(plan.kept or plan.cheap or plan.cached)
    run.control.emit(
        MemoryPlanned(
            plan.kept, plan.cheap, plan.recomputed, plan.cached, plan.activations / 1e9,
            plan.weights / 1e9,
        )
    )  # fmt: skip
