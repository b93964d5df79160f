"""The table of architectures."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FamilySpec:
    """How one architecture is built: the prefix of its class names, and the kinds of its parts.

    `norm` is the kind of ``<prefix>RMSNorm``, `mlp` the kind of ``<prefix>MLP``; None where the
    family has no such class. Kinds are the keys of `_FAST` and `NO_KERNEL`.
    """

    prefix: str
    norm: str = "rms_norm"
    mlp: str | None = "swiglu"


FAMILIES: dict[str, FamilySpec] = {
    "cwm": FamilySpec("Cwm"),
    "ernie4_5": FamilySpec("Ernie4_5"),
    "gemma": FamilySpec("Gemma", norm="rms_norm (1 + w)", mlp="geglu"),
    "gemma2": FamilySpec("Gemma2", norm="rms_norm (1 + w)", mlp="geglu"),
    "gemma3": FamilySpec("Gemma3", norm="rms_norm (1 + w)", mlp="geglu"),
    "gemma3_text": FamilySpec("Gemma3", norm="rms_norm (1 + w)", mlp="geglu"),
    "glm": FamilySpec("Glm", mlp="fused swiglu"),
    "glm4": FamilySpec("Glm4", mlp="fused swiglu"),
    "granite": FamilySpec("Granite"),
    "hunyuan_v1_dense": FamilySpec("HunYuanDenseV1"),
    "llama": FamilySpec("Llama"),
    "ministral": FamilySpec("Ministral"),
    "ministral3": FamilySpec("Ministral3"),
    "mistral": FamilySpec("Mistral"),
    "mixtral": FamilySpec("Mixtral", mlp=None),
    "olmo2": FamilySpec("Olmo2", norm="rms_norm (rounds last)"),
    "olmo3": FamilySpec("Olmo3", norm="rms_norm (rounds last)"),
    "phi3": FamilySpec("Phi3", mlp="fused swiglu"),
    "qwen2": FamilySpec("Qwen2"),
    "qwen3": FamilySpec("Qwen3"),
    "qwen3_moe": FamilySpec("Qwen3Moe"),
    "smollm3": FamilySpec("SmolLM3"),
}
"""By ``model.config.model_type``; a model of text and images is looked up by its text part too."""


NO_KERNEL = {
    "fused swiglu": "gate and up are one projection, which has no kernel",
    "rms_norm (rounds last)": "there is no kernel that multiplies by the weight before rounding",
}


def family_of(config: Any) -> tuple[str, FamilySpec | None]:
    """The model type that the table knows, or else the outer one, and its row."""
    for model_type in (config.model_type, config.get_text_config().model_type):
        if model_type in FAMILIES:
            return model_type, FAMILIES[model_type]
    return config.model_type, None


LAYER_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""transformers' `model_type`s whose decoder layers are those of `decoder.py`."""


WINDOW_OF_ALL = frozenset({"mistral"})
"""transformers' `model_type`s whose every layer has the configuration's sliding window."""
