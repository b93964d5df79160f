"""The way out: axolotl's YAML comes back as it was, and the TRL script trains."""

import ast
import json
import subprocess
import sys

import pytest

from evenfall.engine.config import parse_config
from evenfall.engine.convert.importer import import_config
from evenfall.engine.convert.report import ConvertError
from evenfall.engine.convert.to_axolotl import to_axolotl
from evenfall.engine.convert.to_trl import to_trl
from evenfall.engine.yaml12 import load_yaml

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
        {"data": {"format": "text", "chat_template": None, "columns": {"text": "body"}}},
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


def test_what_axolotl_has_no_key_for_is_said():
    text = to_axolotl(
        sample(data={"assistant_turns": "last", "chat_template": None, "path": "a\nb: c"})
    )
    assert "assistant_turns=last" in text and "Alpaca's plain prompt" in text
    assert load_yaml(text)["datasets"][0]["path"] == "a\nb: c"


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
    assert names == ["torch"]


@pytest.mark.parametrize(
    "data",
    [
        {"format": "alpaca", "chat_template": "alpaca"},
        {"datasets": ["alpaca", "messages", "sharegpt"], "eval_fraction": 0.25},
        {"format": "text"},
    ],
    ids=["alpaca", "mix", "text"],
)
def test_the_trl_script_trains(tiny_model, tmp_path, data):
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if names := data.get("datasets"):
        sets = [{"path": f"{name}.jsonl", "format": name, "max_rows": 8} for name in names]
        data = {**data, "datasets": sets}
    else:
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
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
