"""What others find in an export: the base's own tokenizer, an end of answers, configurations that any age reads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoTokenizer

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.export.form import ExportError
from evenfall.engine.export.model_config import complete_model_config
from evenfall.engine.export.run import export_run
from evenfall.engine.export.token_ids import compare_token_ids
from evenfall.engine.inference.chat import Chat
from evenfall.engine.model.tokenizer import load_tokenizer
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

Make = Callable[..., RunConfig]
TEMPLATE = "{% for m in messages %}<|user|>{{ m.role }} {{ m.content }}<|assistant|>{% endfor %}"
"""Ends turns with token 4; the base's eos is 1."""


def quiet(message: str, fraction: float | None) -> None:
    del message, fraction


def trained_on(config: RunConfig) -> tuple[RunDirectory, list[ev.Event]]:
    run = create_run(config)
    session = Session(run)
    session.start()
    assert session.wait(600) and session.state == "finished"
    return run, session.events_since(0)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_bytes())


@pytest.fixture
def templated(tiny_config: Make) -> RunDirectory:
    """A run of a few steps on a base that does not stop where its rows end."""
    return trained_on(tiny_config(data={"chat_template": TEMPLATE}, train={"max_steps": 2}))[0]


def test_answers_end_where_rows_do_in_chat_and_in_every_export(templated: RunDirectory, tiny_model: Path) -> None:
    assert Chat.open(templated, quiet)._ends == {1, 4}
    adapter, merged = (item.path for item in export_run(templated, ["adapter", "merged"], report=quiet))
    assert read(merged / "generation_config.json")["eos_token_id"] == [1, 4]
    assert read(merged / "config.json")["eos_token_id"] == [1, 4]
    for folder in (templated.adapter, adapter, merged):
        assert read(folder / "tokenizer_config.json")["eos_token"] == "<|assistant|>"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template == TEMPLATE and tokenizer.eos_token_id == 4
        assert (folder / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()


def test_stock_peft_opens_an_adapter_and_its_tokenizer(templated: RunDirectory) -> None:
    for folder in (templated.adapter, export_run(templated, ["adapter"], report=quiet)[0].path):
        model: Any = AutoPeftModelForCausalLM.from_pretrained(str(folder))
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        ids = tokenizer.apply_chat_template([{"role": "user", "content": "red"}], return_tensors="pt").input_ids
        assert torch.isfinite(model(input_ids=ids).logits).all()


def test_a_base_that_stops_by_itself_is_left_as_it_is(trained: RunDirectory, tiny_model: Path) -> None:
    assert Chat.open(trained, quiet)._ends == {1}
    (merged,) = export_run(trained, ["merged"], report=quiet)
    assert "token ids of" in merged.check and "equal the base's" in merged.check
    own = (tiny_model / "generation_config.json").read_bytes()
    assert json.loads(own) == read(merged.path / "generation_config.json")
    assert read(merged.path / "tokenizer_config.json")["eos_token"] == "<|end|>"


def test_documents_teach_no_end_of_turn(tiny_config: Make, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "red green blue one two"}\n' * 4)
    data = {"path": str(rows), "format": "text", "chat_template": TEMPLATE, "keep": ["duplicate", "near_duplicate"]}
    run, _ = trained_on(tiny_config(data=data, train={"max_steps": 1}))
    assert read(run.adapter / "tokenizer_config.json")["eos_token"] == "<|end|>"


def test_a_tokenizer_that_gives_other_ids_is_refused(trained: RunDirectory, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    told = read(folder / "tokenizer.json")
    told["pre_tokenizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ExportError, match="gives other ids for"):
        compare_token_ids(load_tokenizer(trained.config()), folder, trust_remote_code=False)
    shutil.copy(tiny_model / "tokenizer.json", folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ExportError, match="renders chats otherwise"):
        compare_token_ids(load_tokenizer(trained.config()), folder, trust_remote_code=False)


@pytest.mark.parametrize(
    ("rope", "older"),
    [
        ({"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5}),
        (
            {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "partial_rotary_factor": 0.5},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "partial_rotary_factor": 0.5},
        ),
        (
            {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        (
            {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0], "factor": 32.0,
             "original_max_position_embeddings": 4096},
            {"rope_theta": 1e4, "original_max_position_embeddings": 4096,
             "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
        ),
    ],
)  # fmt: skip
def test_positions_and_experts_are_told_in_the_words_of_either_age(
    tiny_config: Make, tmp_path: Path, rope, older
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_config().model.name_or_path, base)
    own = read(base / "config.json") | {"rope_parameters": rope, "made_up": 1, "num_local_experts": 4}
    (base / "config.json").write_text(json.dumps(own))
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False}))
    complete_model_config(tiny_config(model={"name_or_path": str(base)}).model, folder, "bfloat16", None)
    older = older | {"num_experts": 4}
    changed = {"tie_word_embeddings": False, "dtype": "bfloat16", "torch_dtype": "bfloat16"}
    assert read(folder / "config.json") == own | older | changed


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_tied_embeddings_are_told_before_training_and_untied_where_merged(tiny_config: Make, target: str) -> None:
    config = tiny_config(
        adapter={"target_modules": [target]}, train={"max_steps": 3, "learning_rate": 3e-2}, export={"dtype": "float32"}
    )
    run, events = trained_on(config)
    alert = next(event for event in events if isinstance(event, ev.Alert) and target in event.message)
    first_step = next(event for event in events if isinstance(event, ev.Step))
    assert alert.n < first_step.n and "weight of its own" in alert.message
    (merged,) = export_run(run, ["merged"], report=quiet)
    assert read(merged.path / "config.json")["tie_word_embeddings"] is False
    tensors = load_file(merged.path / "model.safetensors")
    base = load_file(Path(config.model.name_or_path) / "model.safetensors")["model.embed_tokens.weight"]
    same = [torch.equal(tensors[name], base) for name in ("model.embed_tokens.weight", "lm_head.weight")]
    assert same == [target == "lm_head", target == "embed_tokens"]
