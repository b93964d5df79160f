"""From transformers' and PEFT's modules to a `decoder.LayerParts`, and the forward that uses it.

A decoder layer is given a subclass whose forward runs `decoder.decoder_layer` as long as the layer is what
it was when it was read: same modules, one plain adapter that is active and not merged, no key-value cache. In
any other state (PEFT's `disable_adapter`, generation, an adapter of another kind) the stock forward runs,
so nothing that a stock trainer does with the model is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ....kernels.qlora import Projection
from ..layers import packed_attention as packed
from ..layers.attention import Attention, GraphAttention, KernelAttention
from ..layers.decoder import ActivationLevel, Call, LayerParts, decoder_layer
from .projections import (
    ATTENTION_PROJECTIONS,
    base_layer,
    lora_of,
)

_NOT_ATTENTIONS = frozenset({"past_key_values", "cache", "use_cache", "position_embeddings"})
"""What a layer is called with and its attention's function is not."""


@dataclass(kw_only=True)
class FastState:
    """What a patched layer carries: its parts, and what they were read from."""

    parts: LayerParts
    modules: dict[str, nn.Module]
    """The seven projections, as they were."""
    projections: dict[str, Projection]
    """What was read from each."""
    weights: dict[str, Tensor]
    """Their base weights, as objects."""
    adapters: dict[str, list[str]]
    """The active adapters of those that have any: TRL's DPO switches to a copy of the first one."""
    window_of_all: bool = False
    """See `table.Family`."""
    level: ActivationLevel = "kept"
    leads: bool = False
    """The model's first fast layer: its forward rounds the adapters of all of them anew."""
    accumulate: bool = False
    """See `Call`."""

    def holds(self, layer: Any) -> bool:
        """Whether the layer is as it was read, with its adapters at work, and nobody watches its
        projections."""
        for name, module in self.modules.items():
            owner = layer.self_attn if name in ATTENTION_PROJECTIONS else layer.mlp
            if (
                getattr(owner, name) is not module
                or module._forward_hooks
                or module._forward_pre_hooks
                or base_layer(module).weight is not self.weights[name]
            ):
                return False
            if isinstance(module, LoraLayer):
                lora: Any = module
                if lora.disable_adapters or lora.merged:
                    return False
                if lora.active_adapters != self.adapters[name]:
                    return False
                a, b, scaling = lora_of(lora)
                read = self.projections[name]
                if a is not read.lora_a or b is not read.lora_b or scaling != read.scaling:
                    return False
        return True


def fast_states(model: nn.Module) -> list[FastState]:
    """Of a model's fast layers, from the first to the last."""
    found: list[Any] = [m.evenfall for m in model.modules() if hasattr(m, "evenfall")]
    return found


class FastDecoderLayer(nn.Module):
    """The forward of a patched layer; its class's own where `FastState.holds` says no."""

    evenfall: FastState
    self_attn: Any

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        state = self.evenfall
        attention = self.self_attn
        interface = attention.config._attn_implementation
        position_embeddings = kwargs.get("position_embeddings")
        if state.leads:  # even if it stays stock itself: the layers above may not
            state.parts.qkv.refresh()
        if (
            args  # what they are depends on the version of transformers
            or _has_cache(kwargs)
            or position_embeddings is None
            or interface not in ALL_ATTENTION_FUNCTIONS
            or not _computes_in(hidden_states, state.parts.qkv.dtype)
            or not state.holds(self)
        ):
            return type(self).evenfall_stock.forward(  # type: ignore[attr-defined]
                self, hidden_states, *args, **kwargs
            )
        batch, length, width = hidden_states.shape
        rows = hidden_states.reshape(-1, width)
        cos, sin = (t.expand(batch, length, -1).reshape(batch * length, -1) for t in position_embeddings)
        options = {key: value for key, value in kwargs.items() if key not in _NOT_ATTENTIONS}
        options.setdefault("attention_mask", None)
        call = Call(
            cos=cos,
            sin=sin,
            attention=_attention(attention, batch, options, state.window_of_all),
            training=self.training,
            accumulate=state.accumulate,
        )
        with torch.autocast(rows.device.type, enabled=False):
            out = decoder_layer(rows, state.parts, call, state.level)
        return out.view(hidden_states.shape)


def _has_cache(options: dict[str, Any]) -> bool:
    """Whether there is a key-value cache, by whatever name: transformers 5.24 renamed it."""
    return any(isinstance(value, Cache) for value in options.values())


def _computes_in(hidden: Tensor, dtype: torch.dtype) -> bool:
    """Whether the stream has this dtype, and stock layers would multiply in it too."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) != dtype:
        return False
    return hidden.dtype == dtype


def _attention(module: Any, batch: int, options: dict[str, Any], window_of_all: bool) -> Attention:
    """What the model is configured with; our kernel by hand where it is what packed attention chooses."""
    window = getattr(module.config, "sliding_window", None) if window_of_all else None
    window = getattr(module, "sliding_window", window)
    interface = module.config._attn_implementation
    documents = options.get("documents")
    if (
        interface == packed.NAME
        and documents is not None
        and packed.choose(documents, sliding_window=window) == "kernel"
    ):
        starts, ends = documents.per_token
        return KernelAttention(starts=starts, ends=ends, scale=module.scaling, window=window)
    function = ALL_ATTENTION_FUNCTIONS[interface]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return function(
            module, query, key, value, dropout=0.0, scaling=module.scaling, sliding_window=window,
            **options,
        )[0]  # fmt: skip

    return GraphAttention(attend, batch)
