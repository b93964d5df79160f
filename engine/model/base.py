"""The base under an adapter."""

from typing import Any

from peft import PeftModel


def base_of(model: Any) -> Any:
    """The model of transformers that a PEFT model is round; itself where it is none."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
