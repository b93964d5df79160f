"""A base's tokenizer, written again: its own bytes but for what the run changed, in words that transformers 4 knows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.model.tokenizer import load_tokenizer
from evenfall.engine.model.tokenizer_files import tokenizer_files

TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|assistant|>{% endfor %}"


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    """With files as transformers 4 writes them, and some that nothing here reads."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    told = json.loads((folder / "tokenizer_config.json").read_text())
    del told["backend"]
    told |= {"tokenizer_class": "PreTrainedTokenizerFast", "legacy": True, "model_max_length": 512}
    told["additional_special_tokens"] = told.pop("extra_special_tokens")
    told["chat_template"] = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": {"content": "<|end|>", "lstrip": False}, "unk_token": "<unk>"})
    )
    (folder / "tokenizer.model").write_bytes(b"\x00pieces")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    return folder


def written(base: Path, tmp_path: Path, template: str | None = None, end: int | None = None, alone: bool = False):
    config = parse_config({"model": {"name_or_path": str(base)}, "data": {"chat_template": template}})
    folder = tmp_path / "written"
    folder.mkdir()
    tokenizer_files(config, load_tokenizer(config), end, alone=alone).write(folder)
    return folder


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_bytes())


def test_nothing_changed_is_the_base_byte_for_byte(base: Path, tmp_path: Path) -> None:
    folder = written(base, tmp_path, alone=True)
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert names == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
        "additional_chat_templates/tools.jinja",
    }  # fmt: skip
    assert all((folder / name).read_bytes() == (base / name).read_bytes() for name in names)


def test_another_template_stands_instead_of_all_of_the_bases(base: Path, tmp_path: Path) -> None:
    folder = written(base, tmp_path, TEMPLATE)
    before, told = read(base / "tokenizer_config.json"), read(folder / "tokenizer_config.json")
    assert before.pop("chat_template") and told == before
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    assert not (folder / "additional_chat_templates").exists()
    assert AutoTokenizer.from_pretrained(folder).chat_template == TEMPLATE


def test_what_ends_a_turn_is_the_eos_in_either_file(base: Path, tmp_path: Path) -> None:
    folder = written(base, tmp_path, TEMPLATE, end=4)
    assert read(folder / "tokenizer_config.json")["eos_token"] == "<|assistant|>"
    assert read(folder / "special_tokens_map.json") == {
        "eos_token": {"content": "<|assistant|>", "lstrip": False},
        "unk_token": "<unk>",
    }
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == 4


def test_a_template_that_writes_eos_keeps_it(base: Path, tmp_path: Path) -> None:
    folder = written(base, tmp_path, "{{ eos_token }}" + TEMPLATE, end=4)
    assert read(folder / "tokenizer_config.json")["eos_token"] == "<|end|>"


def test_what_transformers_5_wrote_is_put_into_words_that_4_knows(tiny_model: Path, tmp_path: Path) -> None:
    assert read(tiny_model / "tokenizer_config.json")["tokenizer_class"] == "TokenizersBackend"
    folder = written(tiny_model, tmp_path)
    told = read(folder / "tokenizer_config.json")
    assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert told.keys().isdisjoint({"backend", "is_local", "local_files_only", "extra_special_tokens"})
    assert told["additional_special_tokens"] == ["<|system|>", "<|user|>", "<|assistant|>"]
    one, other = AutoTokenizer.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(folder)
    assert one.all_special_ids == other.all_special_ids
    assert one("red <|user|> x").input_ids == other("red <|user|> x").input_ids


def test_alone_it_says_of_what_class_it_is(base: Path, tmp_path: Path) -> None:
    (base / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    config = read(base / "config.json")
    (base / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    folder = written(base, tmp_path, TEMPLATE, alone=True)
    one, other = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(folder)
    assert type(one) is type(other) and one.special_tokens_map == other.special_tokens_map
