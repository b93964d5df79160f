"""The table of architectures: one row each, and all that differs between them stands in it.

To add a family, add its row; where its decoder layer is not one that is read already, a `read_layer` of its own in a
file beside this one. What a row says is proven on the device before it is used (`patch/`), so a row can only be
useless, never wrong. An architecture without a row trains at stock speed, one document a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ....kernels.qlora import Workspace
from ..layers.decoder import Stream
from .fast_layer import FastState
from .llama import read_llama_layer

ReadLayer = Callable[[Any, Workspace, Stream, torch.dtype], FastState]
"""From a decoder layer of transformers to what our forward needs; raises `NotFast` for one that it has no place for."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one architecture is built. Kinds are the keys of `patch/norms_and_mlps.py`'s kernels, or of `NO_KERNEL`."""

    prefix: str
    """Of its class names."""
    norm: str | None = "rms_norm"
    """The kind of ``<prefix>RMSNorm``; None where there is no such class."""
    mlp: str | None = "swiglu"
    """The kind of ``<prefix>MLP``, likewise."""
    packed: bool = False
    """Whether its attention calls carry all that packed attention needs: those with sinks, latent heads or linear
    attention do not, and keep their own."""
    read_layer: ReadLayer | None = None
    """Reads a whole ``<prefix>DecoderLayer`` for our own backward; None where none of ours computes the same."""
    window_of_all: bool = False
    """Every layer has the configuration's sliding window; else those have one that say so themselves, whatever
    else a configuration may hold."""

    def read(self, layer: Any, workspace: Workspace, stream: Stream, dtype: torch.dtype) -> FastState:
        """`read_layer` of a family that has one.

        Raises:
            NotFast: the layer holds something that ours has no place for.
        """
        assert self.read_layer is not None
        state = self.read_layer(layer, workspace, stream, dtype)
        state.window_of_all = self.window_of_all
        return state


_UNIT_OFFSET = "rms_norm (1 + w)"
_ROUNDS_LAST = "rms_norm (rounds last)"

FAMILIES: dict[str, Family] = {
    "cwm": Family(prefix="Cwm"),
    "ernie4_5": Family(prefix="Ernie4_5"),
    "gemma": Family(prefix="Gemma", norm=_UNIT_OFFSET, mlp="geglu", packed=True),
    "gemma2": Family(prefix="Gemma2", norm=_UNIT_OFFSET, mlp="geglu", packed=True),
    "gemma3": Family(prefix="Gemma3", norm=_UNIT_OFFSET, mlp="geglu"),
    "gemma3_text": Family(prefix="Gemma3", norm=_UNIT_OFFSET, mlp="geglu", packed=True),
    "glm": Family(prefix="Glm", mlp="fused swiglu"),
    "glm4": Family(prefix="Glm4", mlp="fused swiglu"),
    "granite": Family(prefix="Granite", packed=True),
    "helium": Family(prefix="Helium", norm=_ROUNDS_LAST, packed=True),
    "hunyuan_v1_dense": Family(prefix="HunYuanDenseV1"),
    "llama": Family(prefix="Llama", packed=True, read_layer=read_llama_layer),
    "ministral": Family(prefix="Ministral", packed=True),
    "ministral3": Family(prefix="Ministral3"),
    "mistral": Family(prefix="Mistral", packed=True, read_layer=read_llama_layer, window_of_all=True),
    "mixtral": Family(prefix="Mixtral", mlp=None),
    "olmo2": Family(prefix="Olmo2", norm=_ROUNDS_LAST, packed=True),
    "olmo3": Family(prefix="Olmo3", norm=_ROUNDS_LAST, packed=True),
    "phi3": Family(prefix="Phi3", mlp="fused swiglu", packed=True),
    "qwen2": Family(prefix="Qwen2", packed=True, read_layer=read_llama_layer),
    "qwen3": Family(prefix="Qwen3", packed=True, read_layer=read_llama_layer),
    "qwen3_moe": Family(prefix="Qwen3Moe"),
    "seed_oss": Family(prefix="SeedOss", mlp=None, packed=True),
    "smollm3": Family(prefix="SmolLM3", packed=True),
    "starcoder2": Family(prefix="Starcoder2", norm=None, mlp=None, packed=True),
}
"""By ``model.config.model_type``; a model of text and images is looked up by its text part too."""

NO_KERNEL = {
    "fused swiglu": "gate and up are one projection, which has no kernel",
    _ROUNDS_LAST: "there is no kernel that multiplies by the weight before rounding",
}


def family_of(config: Any) -> tuple[str, Family | None]:
    """The model type that the table knows, or else the outer one, and its row."""
    for model_type in (config.model_type, config.get_text_config().model_type):
        if model_type in FAMILIES:
            return model_type, FAMILIES[model_type]
    return config.model_type, None
