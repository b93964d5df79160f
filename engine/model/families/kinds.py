"""Kinds of models by their names in config.json. Light: transformers' table of names alone."""

from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # type: ignore[attr-defined]

_RENAMED = {"gpt-sw3", "EvollaModel", "mlcd"}
"""Kinds whose configuration calls itself something else."""


def kind_of(told: dict[str, Any]) -> str | None:
    """The `model_type` of the configuration that transformers makes of a config.json; None where it knows none, or it
    is another than the file names.

    Args:
        told: what the file holds.
    """
    kind = told.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES or kind in _RENAMED:
        return None
    return None if kind == "mistral" and "layer_types" in told else kind  # that one is made a ministral
