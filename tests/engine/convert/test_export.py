"""The way out: axolotl's YAML comes back as it was, and the TRL script trains."""

import ast
import json
import subprocess
import sys

import pytest

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.config.yaml12 import load_yaml
from evenfall.engine.convert.importer import import_config
from evenfall.engine.convert.report import ConvertError
from evenfall.engine.convert.to_axolotl import to_axolotl
from evenfall.engine.convert.to_trl import to_trl
from evenfall.engine.data.problems.codes import DROP_CODES

ROWS = {
    "alpaca": [{"instruction": f"what is {n}", "input": "", "output": f"sun {n}"} for n in range(8)],
    "messages": [
        {"messages": [{"role": "user", "content": f"one {n}"},
                      {"role": "assistant", "content": "moon"}]} for n in range(8)
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"two {n}"}, {"from": "gpt", "value": "sea"}]}
        for n in range(8)
    ],
    "text": [{"text": f"red green blue {n}"} for n in range(8)],
    "questions": [{"question": "what", "context": f"sky {n}", "answer": "blue"} for n in range(8)],
    "history": [
        {"instruction": "is", "output": "sun", "history": [["one", f"two {n}"]], "system": "sea"}
        for n in range(8)
    ],
}  # fmt: skip


def sample(**sections):
    tree = {
        "model": {"name_or_path": "example/m"},
        "adapter": {"r": 8, "lora_alpha": 24, "target_modules": ["q_proj"], "use_rslora": True},
        "data": {"path": "rows.jsonl", "format": "alpaca", "chat_template": "alpaca",
                 "eval_fraction": 0.1, "over_long": "drop", "max_length": 512},
        "train": {"num_train_epochs": 3, "warmup_steps": 0.1, "eval_steps": 0.25, "save_steps": 50,
                  "optim": "adamw_8bit", "weight_decay": 0.01, "save_total_limit": 3},
    }  # fmt: skip
    for name, part in sections.items():
        tree[name] = {**tree[name], **part}
    return parse_config(tree)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"quantization": "none", "dtype": "bfloat16", "revision": "main"}},
        {"model": {"use_double_quant": False, "trust_remote_code": True}},
        {"data": {"format": "sharegpt", "chat_template": "llama-3", "drop_system": True,
                  "assistant_only_loss": False, "over_long": "cut"}},
        {"data": {"format": "text", "chat_template": None, "columns": {"text": "body"}, "over_long": "cut"}},
        {"train": {"lr_scheduler_type": "constant", "warmup_steps": 5, "max_steps": 70}},
        {"data": {"path": None, "format": "auto", "chat_template": "gemma", "datasets": [
            {"path": "a.jsonl", "format": "messages", "columns": {"messages": "turns", "role": "who"}},
            {"path": "b/c", "name": "small", "format": "sharegpt"}]}},
    ],
)  # fmt: skip
def test_axolotl_and_back(tmp_path, sections):
    config = sample(**sections)
    file = tmp_path / "axolotl.yaml"
    file.write_text(to_axolotl(config))
    back = import_config(file)
    assert back.config == config, back.to_text()


@pytest.mark.parametrize("write", [to_trl, to_axolotl])
@pytest.mark.parametrize("format", ["preference", "kto", "tokens", "segments"])
def test_a_format_that_has_no_reader_there_is_refused(write, format):
    mix = [{"path": "a.jsonl", "format": "messages"}, {"path": "b.jsonl", "format": format}]
    with pytest.raises(ConvertError, match=rf"data.datasets\[1\].format: {format} .*b.jsonl"):
        write(sample(data={"path": None, "datasets": mix}))
    with pytest.raises(ConvertError, match=rf"^data.format: {format} "):
        write(sample(data={"path": "b.jsonl", "format": format}))


@pytest.mark.parametrize("write", [to_trl, to_axolotl])
def test_rows_that_are_dropped_here_alone_are_said(write):
    assert "data.drop=['duplicate']" in write(sample(data={"path": "a", "drop": ["duplicate"]}))


@pytest.mark.parametrize("write, tool", [(to_trl, "TRL"), (to_axolotl, "axolotl")])
def test_what_becomes_of_each_kind_of_row_that_is_dropped_here_is_said(write, tool):
    notes = {}
    for code in DROP_CODES:
        text = write(sample(data={"path": "a", "drop": [code]}))
        (notes[code],) = (line for line in text.splitlines() if "data.drop=" in line)
    left_out = {"bad", "tool_calls"} if tool == "TRL" else {"bad"}
    for code, note in notes.items():
        kept = f"# - data.drop=['{code}']: {tool} keeps such rows"
        assert (note != kept) == (code in left_out)
    assert ("the script leaves out lines" if tool == "TRL" else "mend the file") in notes["bad"]
    both = write(sample(data={"path": "a", "drop": ["leak", "bad", "near_leak"]}))
    assert f"data.drop=['leak', 'near_leak']: {tool} keeps such rows" in both
    assert notes["bad"] in both and "'bad'," not in both and ", 'bad'" not in both


def test_what_axolotl_has_no_key_for_is_said():
    text = to_axolotl(sample(data={"assistant_turns": "last", "chat_template": None, "path": "a\nb: c"}))
    assert "assistant_turns=last" in text and "Alpaca's plain prompt" in text
    assert load_yaml(text)["datasets"][0]["path"] == "a\nb: c"


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    "row, want",
    [
        ({"instruction": "i", "input": "", "output": "o"}, {"type": "alpaca"}),
        ({"instruction": "i", "input": "", "response": "o"}, {"type": "gpteacher"}),
        ({"INSTRUCTION": "i", "RESPONSE": "o"}, {"type": "oasst"}),
        ({"instruction": "i", "context": "c", "response": "o"},
         {"type.field_instruction": "instruction", "type.field_input": "context",
          "type.field_output": "response"}),
        ({"question": "q", "answer": "a"},
         {"type.field_instruction": "question", "type.field_output": "answer",
          "type.format": "{instruction}"}),
        ({"prompt": "p", "completion": "c", "system_prompt": "s"},
         {"type.field_system": "system_prompt", "type.system_format": "{system}\n\n"}),
        ({"question": "q", "answer": "a", "context": "c"},
         {"type.field_input": "context", "type.format": "{input}\n\n{instruction}"}),
        ({"conversation": CHAT}, {"type": "chat_template", "field_messages": "conversation"}),
        ({"talk": CHAT}, {"field_messages": "talk", "message_property_mappings.role": "role"}),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
         {"field_messages": "conversations", "message_property_mappings.role": "from",
          "message_property_mappings.content": "value"}),
        ({"messages": [*CHAT, CHAT[0], {**CHAT[1], "train": False}]},
         {"message_field_training": "train"}),
        ({"document": "text"}, {"type": "completion", "field": "document"}),
    ],
)  # fmt: skip
def test_axolotl_reads_the_columns_that_detection_found(tmp_path, row, want):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    (tree,) = load_yaml(to_axolotl(sample(data={"path": str(file), "format": "auto"})))["datasets"]
    found = {key: tree[key.split(".")[0]] for key in want}
    nested = {key: found[key][key.split(".")[1]] if "." in key else found[key] for key in want}
    assert nested == want


@pytest.mark.parametrize(
    "row, words",
    [
        ({"instruction": "i", "output": "o", "system": "s"}, "`system` columns are not read"),
        ({"instruction": "i", "output": "o", "history": [["a", "b"]]}, "`history` columns"),
        ({"prompt": "p", "completion": "c", "tools": [{"name": "f"}]}, "definitions of tools"),
        ({"messages": CHAT, "system": "s"}, "`system` columns are not read"),
        ({"messages": [*CHAT, CHAT[0], {**CHAT[1], "weight": 0}]}, "flags of messages (weight)"),
        ({"conversations": [{"from": "human", "value": "q"},
                            {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]},
         "`function_call`"),
        ({"text": "t"}, "is split into several rows"),
    ],
)  # fmt: skip
def test_what_axolotl_does_not_read_is_said(tmp_path, row, words):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    text = to_axolotl(sample(data={"path": str(file), "format": "auto"}))
    assert words in text and "where rows have them" not in text


@pytest.mark.parametrize("row", [{"prompt": "p", "completion": "c"}, {"messages": CHAT}])
def test_system_texts_that_are_left_out_here_are_not_read_by_axolotl(tmp_path, row):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**row, "system": "s"}) + "\n")
    data = {"path": str(file), "format": "auto", "drop_system": True}
    text = to_axolotl(sample(data=data))
    assert "`system` columns" not in text and "field_system" not in text


def test_prompts_of_messages_are_refused_for_axolotl(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": CHAT[:1], "completion": CHAT[1:]}) + "\n")
    with pytest.raises(ConvertError, match=r"rows.jsonl: .*prompt and completion of messages"):
        to_axolotl(sample(data={"path": str(file), "format": "auto"}))


def test_qwens_template_is_written_without_a_system_prompt_of_its_own():
    tree = load_yaml(to_axolotl(sample(data={"chat_template": "qwen", "format": "messages"})))
    assert tree["chat_template"] == "chatml"


@pytest.mark.parametrize(
    "data",
    [
        {"path": "x'''\nimport os #", "format": "auto", "chat_template": '{{ "x" }}\n"""'},
        {"path": "a", "format": "messages", "drop_system": True, "assistant_turns": "last"},
        {"path": "a", "format": "text", "eval_path": "b\nimport os", "chat_template": "chatml"},
    ],
)
def test_no_value_becomes_code(data):
    text = to_trl(sample(data=data))
    names = [
        name.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)
        for name in node.names
    ]  # fmt: skip
    assert names == ["csv", "gzip", "io", "json", "re", "sys", "torch"]


@pytest.mark.parametrize(
    "data",
    [
        {"format": "alpaca", "chat_template": "alpaca"},
        {"datasets": ["alpaca", "messages", "sharegpt"], "eval_fraction": 0.25},
        {"format": "text"},
        {"path": "questions.jsonl"},
        {"path": "history.jsonl"},
        {"path": "history.jsonl", "chat_template": "alpaca", "assistant_turns": "last"},
    ],
    ids=["alpaca", "mix", "text", "questions", "history", "last"],
)
def test_the_trl_script_trains(tiny_model, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if names := data.get("datasets"):
        sets = [{"path": f"{name}.jsonl", "format": name, "max_rows": 8} for name in names]
        data = {**data, "datasets": sets}
    elif "path" not in data:
        data = {"path": f"{data['format']}.jsonl", **data}
    config = parse_config(
        {
            "output_dir": "out",
            "model": {"name_or_path": str(tiny_model), "quantization": "none"},
            "adapter": {"r": 4},
            "data": {"max_length": 64, **data},
            "train": {"max_steps": 2, "gradient_accumulation_steps": 2, "eval_steps": None},
        }
    )
    (tmp_path / "train.py").write_text(to_trl(config))
    done = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
