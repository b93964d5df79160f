"""A base's tokenizer as others are to find it: the base's own files, with what the run changed and nothing else.

transformers 5 writes a tokenizer under class names and keys that transformers 4 cannot read (and with it servers and
converters of that age), and drops flags that decide on token ids. So nothing is written anew: files are copied byte for
byte, and changed only where the run used another chat template, or learnt to end its answers with a token that is no
eos to the base. A base that was itself written by transformers 5 is put into words that both ages know.
"""

import contextlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from ..config.run_config import ModelConfig, RunConfig
from .source import model_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONFIG, _SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_MORE_TEMPLATES = "additional_chat_templates"
_NAMES = (
    _CONFIG, _SPECIAL, *_TEMPLATES, "tokenizer.json", "tokenizer.model", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "tiktoken.model",
)  # fmt: skip
"""What tokenizers keep themselves in; of a hub model each is asked for."""
_PATTERNS = (*_NAMES, "*.tiktoken", "tokenization_*.py", f"{_MORE_TEMPLATES}/*.jinja")
_NEW_CLASS = "TokenizersBackend"
_NEW_KEYS = ("backend", "is_local", "local_files_only")
"""What transformers 5 notes for itself."""


@dataclass(kw_only=True)
class TokenizerFiles:
    """The files that a run's tokenizer is, not yet written."""

    copied: dict[str, Path] = field(default_factory=dict)
    """Name -> the base's file, to be copied as it stands."""
    changed: dict[str, str] = field(default_factory=dict)
    """Name -> text of a file that is not, or not so, the base's."""

    def write(self, folder: Path) -> None:
        """Write them into an existing folder."""
        for name, source in self.copied.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(source.read_bytes())
        for name, text in self.changed.items():
            (folder / name).write_text(text, encoding="utf-8")


def tokenizer_files(
    run: RunConfig, tokenizer: "PreTrainedTokenizerBase", end: int | None, *, alone: bool = False
) -> TokenizerFiles:
    """The files of the tokenizer that a run uses.

    Args:
        tokenizer: as `load_tokenizer` gives it.
        end: the token that the run learnt to end its answers with, where the base does not stop there
            (`turn_end.unknown_turn_end`).
        alone: no model's config.json will stand beside them, which else says of what class they are.

    Raises:
        LoadError: the base is not where it was.
        OSError, ValueError: one of its files cannot be read.
    """
    files = TokenizerFiles(copied=_files_of_base(run.model))
    told = _read(files, _CONFIG)
    as_it_was = json.dumps(told)
    _in_older_words(told)
    if alone and not _opens_alike(files, tokenizer):
        told["tokenizer_class"] = _older_class(type(tokenizer).__name__)
        told |= {key: value for key, value in tokenizer.special_tokens_map.items() if key not in told}
    if run.data.chat_template is not None:
        for name in [name for name in files.copied if name in _TEMPLATES or name.startswith(f"{_MORE_TEMPLATES}/")]:
            del files.copied[name]
        told.pop("chat_template", None)
        files.changed[_TEMPLATES[0]] = str(tokenizer.chat_template)
    # A template that writes eos_token somewhere would write another token there.
    if end is not None and "eos_token" not in str(tokenizer.chat_template):
        text = str(tokenizer.convert_ids_to_tokens(end))
        told["eos_token"] = _renamed(told.get("eos_token"), text)
        if special := _read(files, _SPECIAL):
            special["eos_token"] = _renamed(special.get("eos_token"), text)
            _change(files, _SPECIAL, special)
    if json.dumps(told) != as_it_was:
        _change(files, _CONFIG, told)
    return files


def _files_of_base(config: ModelConfig) -> dict[str, Path]:
    source = model_source(config)
    folder = Path(source)
    if not folder.is_dir():
        found = [
            cached_file(
                source,
                name,
                revision=config.revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            for name in ("config.json", *_NAMES)
        ]
        folder = next((Path(file).parent for file in found if file), folder)
    return {file.relative_to(folder).as_posix(): file for name in _PATTERNS for file in sorted(folder.glob(name))}


def _in_older_words(told: dict[str, Any]) -> None:
    """Put what only transformers 5 knows into words of transformers 4, which 5 knows too."""
    for key in _NEW_KEYS:
        told.pop(key, None)
    if isinstance(told.get("tokenizer_class"), str):
        told["tokenizer_class"] = _older_class(told["tokenizer_class"])
    extra = told.get("extra_special_tokens")
    if isinstance(extra, list):  # transformers 4 takes an object of names there
        del told["extra_special_tokens"]
        told["additional_special_tokens"] = extra


def _opens_alike(files: TokenizerFiles, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the files alone are opened as the class that transformers takes beside the model's config.json: it may
    go by the model's type."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
        files.write(Path(folder))
        return type(AutoTokenizer.from_pretrained(folder)) is type(tokenizer)
    return False


def _older_class(name: str) -> str:
    return "PreTrainedTokenizerFast" if name == _NEW_CLASS else name


def _renamed(token: Any, text: str) -> Any:
    """A special token as it is written in a file, with another text."""
    return {**token, "content": text} if isinstance(token, dict) else text


def _read(files: TokenizerFiles, name: str) -> dict[str, Any]:
    told = json.loads(files.copied[name].read_bytes()) if name in files.copied else {}
    return told if isinstance(told, dict) else {}


def _change(files: TokenizerFiles, name: str, told: dict[str, Any]) -> None:
    files.copied.pop(name, None)
    files.changed[name] = json.dumps(told, ensure_ascii=False, indent=2) + "\n"
