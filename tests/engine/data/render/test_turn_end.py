"""What ends a turn: told by the chat template, and only where the base does not stop there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evenfall.engine.config.run_config import RunConfig, parse_config
from evenfall.engine.data.render.turn_end import learnt_turn_end, unknown_turn_end
from evenfall.engine.model.tokenizer import load_tokenizer

CHATML = (
    "{% for m in messages %}<|user|>{{ m.role }} {{ m.content }}<|assistant|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant {% endif %}"
)


def on(folder: Path, template: str | None, **generation: Any) -> tuple[RunConfig, Any]:
    (folder / "generation_config.json").write_text(json.dumps(generation))
    tree = {"model": {"name_or_path": str(folder)}, "data": {"chat_template": template}}
    config = parse_config(tree)
    return config, load_tokenizer(config)


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "base"))


def test_a_template_that_ends_turns_with_another_token_than_eos(base: Path) -> None:
    config, tokenizer = on(base, CHATML, eos_token_id=1)
    assert tokenizer.convert_ids_to_tokens(unknown_turn_end(config.model, tokenizer)) == "<|assistant|>"
    assert learnt_turn_end(config.model, tokenizer, chats=False) is None


@pytest.mark.parametrize("named", [4, [1, 4]])
def test_a_base_that_stops_there_already_changes_nothing(base: Path, named: Any) -> None:
    config, tokenizer = on(base, CHATML, eos_token_id=named)
    assert unknown_turn_end(config.model, tokenizer) is None


@pytest.mark.parametrize(
    "template",
    [
        None,  # its own ends with eos
        "{% for m in messages %}{{ m.role }} {{ m.content }} red{% endfor %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_only_a_special_token_behind_an_answer_counts(base: Path, template: str | None) -> None:
    config, tokenizer = on(base, template, eos_token_id=1)
    assert unknown_turn_end(config.model, tokenizer) is None


def test_a_template_that_takes_blocks_is_asked_with_blocks(base: Path) -> None:
    template = "{% for m in messages %}{{ m.content[0].text }}<|system|>{% endfor %}"
    config, tokenizer = on(base, template, eos_token_id=1)
    assert unknown_turn_end(config.model, tokenizer) == 2
