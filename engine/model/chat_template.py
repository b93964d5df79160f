"""Which chat template a run uses: the tokenizer's own, a named one, a file, or jinja text.

A template is set on the tokenizer once, where it is loaded, so training, chat and export use the same. Named ones
are for base models, whose tokenizers have none; they write the special tokens as text, which the tokenizer must know.
"""

from pathlib import Path
from typing import Any

from ...presets.load import PresetError, chat_template, chat_template_names
from ..config.run_config import ConfigError


def set_chat_template(tokenizer: Any, given: str) -> None:
    """Give a tokenizer the chat template that `data.chat_template` stands for. A named one begins with bos where the
    tokenizer puts one before every text: the model has never seen a text without it.

    Raises:
        ConfigError: as `read_chat_template`.
    """
    template = read_chat_template(given)
    first = next(iter(tokenizer("a")["input_ids"]), None)
    if given in chat_template_names() and "bos_token" not in template and first == tokenizer.bos_token_id is not None:
        template = "{{- bos_token -}}\n" + template
    tokenizer.chat_template = template


def read_chat_template(given: str) -> str:
    """The jinja text that `data.chat_template` stands for.

    Raises:
        ConfigError: it is no name, no file and no jinja, or the file cannot be read.
    """
    if "{{" in given or "{%" in given:
        return given
    if given in chat_template_names():
        return chat_template(given)
    file = Path(given).expanduser()
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.chat_template: {given} cannot be read: {error}") from error
    try:
        return chat_template(given)
    except PresetError as error:
        raise ConfigError(f"data.chat_template: {error}. It takes a name, a jinja file, or jinja text") from error
