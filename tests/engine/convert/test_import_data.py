"""What becomes of a file's data: formats, columns, prompts and chat templates of other tools."""

from pathlib import Path

import jinja2
import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.config.yaml12 import dump_yaml, load_yaml
from evenfall.engine.convert.files_here import is_missing
from evenfall.engine.convert.importer import import_config
from evenfall.engine.convert.report import ImportReport
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.read import read
from evenfall.engine.data.row import SourceRow

BASE = {
    "base_model": "example/m", "adapter": "qlora", "lora_r": 8, "lora_alpha": 16,
    "lora_target_linear": True, "learning_rate": 1e-4,
}  # fmt: skip
MLX = {"model": "m", "train": True, "num_layers": -1, "lora_parameters": {"rank": 8, "scale": 2.0}}


def write(folder: Path, tree: object) -> Path:
    file = folder / "other.yaml"
    file.write_text(dump_yaml(tree))
    return file


def keys(report: ImportReport, verdict) -> list[str]:
    return sorted(line.key for line in report.of(verdict))


def test_rows_without_a_template(tmp_path):
    file = write(tmp_path, {**BASE, "datasets": [{"path": "a.jsonl", "type": "input_output"}]})
    config = import_config(file).config
    assert config and (config.data.format, config.data.columns) == ("segments", {})
    assert config.data.chat_template is None
    file = write(tmp_path, {**load_yaml(file.read_text()), "train_on_inputs": True})
    assert keys(import_config(file), "asked") == ["datasets[0].type"]
    assert import_config(file, ignore=["datasets[0].type"]).config


@pytest.mark.parametrize("type", [None, ""])
def test_an_empty_type_means_tokens(tmp_path, type):
    file = write(tmp_path, {**BASE, "datasets": [{"path": "a.jsonl", "type": type}]})
    report = import_config(file)
    assert report.config and report.config.data.format == "tokens"
    (line,) = [line for line in report.lines if line.key == "datasets[0].type"]
    assert line.target == "data.format=tokens" and "input_ids" in line.said
    sets = [{"path": "a.jsonl", "type": type}, {"path": "b.jsonl", "type": "input_output"}]
    config = import_config(write(tmp_path, {**BASE, "datasets": sets})).config
    assert config and [one.format for one in config.data.datasets] == ["tokens", "segments"]
    asked = import_config(write(tmp_path, {**BASE, "datasets": [{"path": "a.jsonl"}]}))
    assert keys(asked, "asked") == ["datasets[0].type"]


def test_long_texts_are_cut_where_axolotl_splits_them(tmp_path):
    text = {"path": "a.jsonl", "type": "completion"}
    for more in ({}, {"excess_length_strategy": "drop"}):
        report = import_config(write(tmp_path, {**BASE, "datasets": [text], **more}))
        assert report.config and report.config.data.over_long == "cut"
        assert "its end is cut off" in report.to_text(1000)
    mixed = [text, {"path": "b.jsonl", "type": "chat_template"}]
    report = import_config(write(tmp_path, {**BASE, "datasets": mixed}))
    assert report.config and report.config.data.over_long == "drop"
    assert "here it is left out" in report.to_text(1000)


def test_keys_of_a_chat_data_set(tmp_path):
    one = {
        "path": "a.jsonl", "type": "chat_template", "chat_template": "chatml",
        "field_tools": "functions", "message_field_training": "train",
    }  # fmt: skip
    report = import_config(write(tmp_path, {**BASE, "datasets": [one]}))
    assert report.config and report.config.data.chat_template == "chatml"
    assert report.config.data.columns == {"tools": "functions"}
    assert "datasets[0].message_field_training" in keys(report, "ignored")
    other = write(tmp_path, {**BASE, "datasets": [{**one, "message_field_training": "learn"}]})
    assert keys(import_config(other), "asked") == ["datasets[0].message_field_training"]
    differs = write(tmp_path, {**BASE, "chat_template": "gemma", "datasets": [one]})
    assert len(keys(import_config(differs), "asked")) == 1


FORMAT = "[INST] {instruction}\n\t'{input}' é😀 [/INST]"


@pytest.mark.parametrize(
    "kind, row, want",
    [
        ({"field_input": "more", "format": FORMAT, "no_input_format": "Q: {instruction} A:"},
         {"q": "who", "more": "me", "a": "you", "input": "other", "system": "be"},
         "[INST] who\n\t'me' é😀 [/INST]you</s>"),
        ({"field_input": "more", "format": FORMAT, "no_input_format": "Q: {instruction} A:"},
         {"q": "who", "more": "", "a": "you"}, "Q: who A:you</s>"),
        ({"format": "{instruction}"}, {"q": "who", "a": "you", "input": "other"}, "whoyou</s>"),
        ({"format": "{instruction}", "field_system": "s", "system_format": "<{system}>"},
         {"q": "who", "a": "you", "s": "be"}, "<be>whoyou</s>"),
        ({"format": "{instruction}", "system_prompt": "be", "system_format": "<{system}>"},
         {"q": "who", "a": "you"}, "<be>whoyou</s>"),
    ],
)  # fmt: skip
def test_a_prompt_of_axolotls_own_is_written_as_it_stands(tmp_path, kind, row, want):
    kind = {"field_instruction": "q", "field_output": "a", **kind}
    file = write(tmp_path, {**BASE, "datasets": [{"path": "a.jsonl", "type": kind}]})
    config = import_config(file).config
    assert config
    data = config.data
    normal = normalise(
        SourceRow(file="a.jsonl", number=1, value=row),
        data.format,
        data.columns,
        drop_system=data.drop_system,
    )
    assert isinstance(normal, Conversation)
    template = jinja2.Environment().from_string(data.chat_template or "")
    assert template.render(messages=normal.messages, eos_token="</s>") == want


def test_prompts_of_their_own_that_differ_are_asked_about(tmp_path):
    kind = {"field_instruction": "q", "field_output": "a", "format": "{instruction}"}
    sets = [{"path": "a.jsonl", "type": kind}, {"path": "b.jsonl", "type": "chat_template"}]
    assert keys(import_config(write(tmp_path, {**BASE, "datasets": sets})), "asked") == ["datasets[0].type"]
    alike = [
        {"path": "a.jsonl", "type": kind},
        {"path": "b.jsonl", "type": {**kind, "field_instruction": "p"}},
    ]
    config = import_config(write(tmp_path, {**BASE, "datasets": alike})).config
    assert config and [one.columns["prompt"] for one in config.data.datasets] == ["q", "p"]


@pytest.mark.parametrize(
    "tool, name, model, want, words",
    [
        ("f", "qwen", "Qwen/Qwen2.5-7B", "qwen", "no system prompt where a row has none"),
        ("f", "qwen", "saves/Qwen2.5-7B-Instruct", None, "the tokenizer's own"),
        ("f", "qwen3", "Qwen/Qwen3-4B-Base", "qwen", "<think>"),
        ("f", "qwen3", "Qwen/Qwen3-4B", None, "the tokenizer's own"),
        ("f", "qwen3_nothink", "Qwen/Qwen3-4B-Instruct-2507", None, "the tokenizer's own"),
        ("f", "qwen3_nothink", "Qwen/Qwen3-4B", "qwen", "no place for tools"),
        ("f", "llama3", "meta-llama/Llama-3.1-8B-Instruct", "llama-3", "no place for tools"),
        ("f", "gemma3", "google/gemma-3-4b-pt", "gemma", "nearest"),
        ("f", "gemma3", "google/gemma-3-4b-it", None, "the tokenizer's own"),
        ("f", "phi4", "microsoft/phi-4", None, "the tokenizer's own"),
        ("f", "alpaca", "m", "alpaca", "### Input:"),
        ("f", "zephyr", "m", "zephyr", "You are Zephyr"),
        ("f", "chatml", "m", "chatml", ""),
        ("f", "default", "m", "asked", "plainly"),
        ("a", "qwen_25", "Qwen/Qwen2.5-7B-Instruct", None, "the tokenizer's own"),
        ("a", "qwen_25", "Qwen/Qwen2.5-7B", "qwen", "no system prompt where a row has none"),
        ("a", "mistral_v2v3", "mistralai/Mistral-7B-v0.3", "mistral", "a space before [/INST]"),
        ("a", "llama3", "m", "llama-3", ""),
        ("a", "phi_4", "m", "asked", "no template of that name"),
    ],
)  # fmt: skip
def test_templates_by_name(tmp_path, tool, name, model, want, words):
    if tool == "a":
        sets = [{"path": "a.jsonl", "type": "chat_template"}]
        tree = {**BASE, "base_model": model, "datasets": sets, "chat_template": name}
    else:
        tree = {"model_name_or_path": model, "stage": "sft", "template": name}
    report = import_config(write(tmp_path, tree), [] if tool == "a" else ["data.path=a.jsonl"])
    key = "chat_template" if tool == "a" else "template"
    (line,) = [line for line in report.lines if line.key == key]
    assert words in line.said
    if want == "asked":
        assert line.verdict == "asked"
    else:
        assert report.config and report.config.data.chat_template == want


def test_documents_are_said_to_be_cut_and_packed(tmp_path):
    tree = {"model_name_or_path": "m", "stage": "pt", "cutoff_len": 512}
    text = import_config(write(tmp_path, tree), ["data.path=a.jsonl"]).to_text(1000)
    assert "the rest of it goes on in the next bin" in text
    assert "documents share bins there too" in text and "fewer steps" not in text
    text = import_config(write(tmp_path, {**tree, "packing": False}), ["data.path=a.jsonl"]).to_text(1000)
    assert "cuts a longer row at its end" in text and "fewer steps" in text


@pytest.mark.parametrize(
    "names, format, columns",
    [
        ({"prompt_feature": "q", "completion_feature": "a"}, "prompt_completion",
         {"prompt": "q", "completion": "a"}),
        ({"chat_feature": "turns"}, "messages", {"messages": "turns"}),
        ({"text_feature": "text"}, "text", {}),
    ],
)  # fmt: skip
def test_columns_that_mlx_lm_names(tmp_path, names, format, columns):
    hub = {"hf_dataset": {"path": "a/b", "train_split": "train", **names}}
    for tree in ({**MLX, "data": "a/b", **names}, {**MLX, **hub}):
        config = import_config(write(tmp_path, tree)).config
        assert config and (config.data.path, config.data.format) == ("a/b", format)
        assert config.data.columns == columns


def test_what_mlx_lm_may_mean_is_asked(tmp_path):
    both = {**MLX, "data": "a/b", "chat_feature": "turns", "text_feature": "body"}
    assert keys(import_config(write(tmp_path, both)), "asked") == ["chat_feature", "text_feature"]
    sliced = {**MLX, "hf_dataset": {"path": "a/b", "train_split": "train[:9]", "valid_split": "x"}}
    assert keys(import_config(write(tmp_path, sliced)), "asked") == [
        "hf_dataset.train_split", "hf_dataset.valid_split",
    ]  # fmt: skip


def test_rows_in_their_order(tmp_path):
    tree = {"model_name_or_path": "m", "stage": "sft", "disable_shuffling": True}
    config = import_config(write(tmp_path, tree), ["data.path=a.jsonl"]).config
    assert config and not config.data.shuffle


FACTORY = {"model_name_or_path": "m", "stage": "sft", "dataset": "one"}
STUDIO = {"model": "m", "training": {"num_epochs": 1}}
ALPACA = {"path": "rows.jsonl", "type": "alpaca"}


@pytest.mark.parametrize(
    "tree, target",
    [
        (FACTORY, "data.path=FILE"),
        ({**BASE, "datasets": [ALPACA]}, "data.path=FILE"),
        ({**BASE, "datasets": [{**ALPACA, "path": "json", "data_files": "rows.jsonl"}]}, "data.path=FILE"),
        ({**STUDIO, "data": {"dataset": "rows.jsonl"}}, "data.path=FILE"),
        ({**STUDIO, "data": {"local_dataset": ["rows.jsonl"]}}, "data.path=FILE"),
        ({**MLX, "data": "."}, "data.path=FILE"),
        ({**BASE, "datasets": [{"path": "a/hub-id", "type": "alpaca"}], "test_datasets": [ALPACA]},
         "data.eval_path=FILE"),
        ({**BASE, "datasets": [{"path": "a/hub-id", "type": "alpaca"}, ALPACA]},
         "data.datasets=[{path: a/hub-id, format: alpaca}, {path: FILE, format: alpaca}]"),
    ],
)  # fmt: skip
def test_data_files_that_are_not_here_are_said(tmp_path, monkeypatch, tree, target):
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    (tmp_path / "dataset_info.json").write_text('{"one": {"file_name": "rows.jsonl"}}')
    if tree.get("data") == ".":
        tree = {**tree, "data": str(there)}
    file = write(tmp_path, tree)
    report = import_config(file)
    assert report.config
    (line,) = report.of("missing")
    assert line.key.endswith(("rows.jsonl", "train.jsonl")) and line.target == target
    assert "looked for in" in line.said
    text = report.to_text(1000)
    assert text.endswith(f"\n\nImports. But a data file is not found here: put it there, or add {target}\n")
    assert "Not found here\n" in text
    # What is named instead is there, or is not.
    named = there / "named.jsonl"
    answer = target.replace("FILE", str(named))
    (line,) = import_config(file, [answer]).of("missing")
    assert (line.key, line.said) == (str(named), f"looked for in {there}")
    named.touch()
    found = import_config(file, [answer])
    assert not found.of("missing") and found.to_text().endswith("\n\nImports.\n")


def test_a_data_file_beside_the_configuration_is_named(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    (line,) = import_config(write(tmp_path, {**BASE, "datasets": [ALPACA]})).of("missing")
    assert line.target == f"data.path={tmp_path / 'rows.jsonl'}"


@pytest.mark.parametrize("path", ["demo", "name", "a/b", "a/b.c", "a/b/c", "a/b.jsonl", "a.zip"])
def test_a_missing_file_is_what_a_run_would_call_one(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(read, "_read_hub", lambda source: iter(()))
    try:
        next(read.read_rows(DatasetConfig(path=path)), None)
    except DataError as error:
        assert "no such file" in str(error) and is_missing(path)
    else:
        assert not is_missing(path)
