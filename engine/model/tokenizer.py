"""A model's tokenizer. Not light: transformers' `AutoTokenizer` imports torch."""

from typing import Any

from transformers import AutoTokenizer

from ..config.run_config import RunConfig
from .chat_template import set_chat_template
from .folder import LoadError, check_tokenizer_folder, model_folder
from .source import model_source, readable_errors


def load_tokenizer(run: RunConfig) -> Any:
    """The model's fast tokenizer, with the chat template that the run uses.

    Raises:
        LoadError: not found, no network, gated, or only a slow tokenizer exists.
        ConfigError: `data.chat_template` cannot be read.
    """
    config = run.model
    if folder := model_folder(config.name_or_path):
        check_tokenizer_folder(folder, f"model.name_or_path: {config.name_or_path}")
    with readable_errors(config.name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(
            model_source(config),
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
        )
    if not tokenizer.is_fast:
        raise LoadError(f"{config.name_or_path}: has no fast tokenizer (tokenizer.json), which exact masks need")
    if run.data.chat_template is not None:
        set_chat_template(tokenizer, run.data.chat_template)
    return tokenizer
