"""What was imported trains: the file's own settings, on a tiny model and rows of the file's format."""

import json
from pathlib import Path

import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.convert.importer import import_config
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

FIXTURES = Path(__file__).parent / "fixtures"
FILES = [
    "axolotl/moe_qlora",
    "axolotl/gemma_chat_qlora",
    "axolotl/lora_kernels",
    "axolotl/lora_small",
    "axolotl/alpaca_qlora",
    "axolotl/untemplated",
    "llamafactory/sft",
    "llamafactory/qlora_sft",
    "llamafactory/pretrain",
    "studio/lora",
    "mlx_lm/lora",
]
ANSWERED = {
    "axolotl/alpaca_lora_8bit": "model.quantization=nf4",
    "axolotl/chat_lora_8bit": "model.quantization=none",
    "board/saved": "model.name_or_path=example/model",
}
"""Files that ask -> the answer."""

QUESTION, ANSWER = "what is next after one two", "three four"
ROWS = {
    "alpaca": {"instruction": QUESTION, "input": "", "output": ANSWER},
    "sharegpt": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
    "messages": {
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER},
        ]
    },
    "text": {"text": f"{QUESTION}? {ANSWER}."},
    "segments": {
        "segments": [
            {"label": False, "text": f"{QUESTION}? "},
            {"label": True, "text": f"{ANSWER}<|end|>"},
        ]
    },
    "tokens": {"input_ids": [6, 7, 8, 1], "attention_mask": [1] * 4, "labels": [-100, 7, 8, 1]},
}


def rows_file(folder: Path, name: str, format: str, columns: dict[str, str]) -> str:
    row = dict(ROWS["alpaca" if format == "auto" else format])
    for key, column in columns.items():
        if key in row:
            row[column] = row.pop(key)
    turns = {key: column for key, column in columns.items() if key in ("role", "content")}
    for column, value in row.items():
        if isinstance(value, list) and turns:
            row[column] = [{turns.get(k, k): text for k, text in turn.items()} for turn in value]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(12)))
    return str(file)


def here(config: RunConfig, model: Path, folder: Path) -> RunConfig:
    """The imported run with a model and data that this machine has, for two steps."""
    data = config.data
    if data.datasets:
        own = [
            one.model_copy(update={"path": rows_file(folder, f"rows{place}", one.format, one.columns)})
            for place, one in enumerate(data.datasets)
        ]
        data = data.model_copy(update={"datasets": own})
    elif not Path(data.path or "").is_file():
        path = rows_file(folder, "rows", data.format, data.columns)
        data = data.model_copy(update={"path": path})
    return config.model_copy(update={"data": data}).with_overrides(
        [
            f"model.name_or_path={model}", f"output_dir={folder / 'runs'}", "train.device=cpu",
            "train.max_steps=2",
        ]
    )  # fmt: skip


@pytest.mark.parametrize("name", [*FILES, *ANSWERED])
def test_an_imported_file_trains(name, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    report = import_config(f"{name}.yaml", [ANSWERED[name]] if name in ANSWERED else [])
    assert report.config is not None
    session = Session(create_run(here(report.config, tiny_model, tmp_path)))
    session.start()
    assert session.wait(600)
    story = session.events_since(0)
    losses = [event.loss for event in story if isinstance(event, ev.Step)]
    assert len(losses) == 2 and all(0 < loss < 50 for loss in losses)
    prepared = next(event for event in story if isinstance(event, ev.DataPrepared))
    assert all(one.kept and one.rows == one.kept + one.held_out for one in prepared.data.sources)
