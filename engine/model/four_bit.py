"""How much of a model is held in 4 bits, and what stays wide: told true of a loaded model, and before one is loaded.

bitsandbytes packs the weights of linear layers. Embeddings stay as they are, and so do the experts of a mixture, which
are no linear layers but one large tensor each: a model of which they are 97 % takes almost what it takes in 16 bits.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.quantizers.base import get_keys_to_not_convert

_PACKED_BYTES = 0.516
"""Of a weight in NF4 with its doubly quantised scales."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, kw_only=True)
class FourBitShare:
    """What of a model's weights is packed."""

    packed: int
    """Weights in 4 bits."""
    wide_bytes: int
    """Of the weights that are not."""
    wide: int
    largest: str
    """The largest kind of those, by the last part of its name that says something."""

    @property
    def share(self) -> float:
        return self.packed / max(1, self.packed + self.wide)

    def told(self, dtype: str) -> str:
        """In a line: ``4-bit: 3 % of the weights; 0.91 of 1.02 GB stay bfloat16 (experts)``."""
        total = self.wide_bytes + self.packed * _PACKED_BYTES
        unit, size = ("GB", 1e9) if total >= 1e9 else ("MB", 1e6)
        return (
            f"4-bit: {100 * self.share:.0f} % of the weights; {self.wide_bytes / size:.3g} of "
            f"{total / size:.3g} {unit} stay {dtype} ({self.largest})"
        )


def four_bit_share(model: Any, dtype: torch.dtype, kept: Collection[str] | None = None) -> FourBitShare:
    """Count a base's weights.

    Args:
        model: loaded, or a skeleton that is yet to be loaded in 4 bits.
        dtype: of what stays wide in a skeleton.
        kept: layers that stay wide, by name or by a part of it; None: those that transformers keeps.
    """
    keep = get_keys_to_not_convert(model) if kept is None else kept
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(f".{part}." in f".{name}." for part in keep or ())
    }
    packed = wide_bytes = 0
    wide = Counter[str]()
    for name, parameter in model.named_parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            packed += state.shape.numel()
        elif parameter.is_meta and name in linear:
            packed += parameter.numel()
        elif not parameter.requires_grad or parameter.is_meta:
            wide[_kind(name)] += parameter.numel()
            wide_bytes += parameter.numel() * (dtype.itemsize if parameter.is_meta else parameter.element_size())
    largest = max(wide, key=lambda name: wide[name], default="")
    return FourBitShare(packed=packed, wide=wide.total(), wide_bytes=wide_bytes, largest=largest)


def has_experts(config: Any) -> bool:
    """Whether a configuration is a mixture's."""
    text = config.get_text_config()
    return any((getattr(text, key, None) or 0) > 1 for key in _EXPERTS)


def _kind(name: str) -> str:
    """``model.layers.3.mlp.experts.gate_up_proj`` -> ``experts``; else the name of the module, without numbers."""
    parts = [part for part in re.sub(r"\.(\d+|base_layer)\b", "", name).split(".") if part != "weight"]
    return "experts" if "experts" in parts else parts[-1]
