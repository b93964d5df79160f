"""A model's tokenizer.

transformers' `AutoTokenizer` makes the model's whole configuration first, for its `model_type` and little else, and a
configuration imports torch. So where the model's files tell what it asks, it is given that.
"""

from types import SimpleNamespace
from typing import Any

from transformers import AutoTokenizer

from ..config.run_config import ModelConfig, RunConfig
from .chat_template import set_chat_template
from .families.kinds import kind_of
from .folder import LoadError, check_tokenizer_folder, model_folder
from .source import model_source, readable_errors, told_by


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
            config=_what_is_asked(config),
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
        )
    if not tokenizer.is_fast:
        raise LoadError(f"{config.name_or_path}: has no fast tokenizer (tokenizer.json), which exact masks need")
    if run.data.chat_template is not None:
        set_chat_template(tokenizer, run.data.chat_template)
    return tokenizer


def _what_is_asked(config: ModelConfig) -> SimpleNamespace | None:
    """What `AutoTokenizer` asks a configuration where the tokenizer's files name its class and no code of their own;
    None: let it make one."""
    told, of_tokenizer = told_by(config, "config.json"), told_by(config, "tokenizer_config.json")
    kind, name = kind_of(told), of_tokenizer.get("tokenizer_class")
    if "auto_map" in told or "auto_map" in of_tokenizer or kind is None or not isinstance(name, str) or not name:
        return None
    asked = SimpleNamespace(model_type=kind, tokenizer_class=name, _name_or_path=model_source(config))
    if "model_name" in told:
        asked.model_name = told["model_name"]
    return asked
