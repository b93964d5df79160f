"""Files of other tools: one fixture for each kind of file that their repositories hold."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.config.yaml12 import dump_yaml, load_yaml
from evenfall.engine.convert import axolotl, llamafactory, mlx_lm, studio
from evenfall.engine.convert.importer import import_config
from evenfall.engine.convert.report import ConvertError, ImportReport

FIXTURES = Path(__file__).parent / "fixtures"
SNAPSHOTS = Path(__file__).parent / "snapshots"
FILES = sorted(file.relative_to(FIXTURES).with_suffix("").as_posix() for file in FIXTURES.rglob("*.yaml"))

AXOLOTL = {
    "model.quantization": "nf4", "adapter.r": 24, "adapter.lora_alpha": 16,
    "adapter.target_modules": "all-linear", "adapter.lora_dropout": 0.05, "data.path": "example/alpaca",
    "data.format": "alpaca", "data.chat_template": "alpaca", "data.over_long": "drop",
    "train.learning_rate": 3e-4, "train.warmup_steps": 0.05, "train.lr_scheduler_type": "cosine",
    "train.gradient_checkpointing": False, "model.dtype": "auto", "train.save_total_limit": 4,
}  # fmt: skip
SMALL = AXOLOTL | {
    "model.quantization": "none", "adapter.r": 12, "adapter.lora_alpha": 32,
    "adapter.target_modules": [
        "gate_proj", "down_proj", "up_proj", "q_proj", "v_proj", "k_proj", "o_proj",
    ],
    "train.optim": "adamw_8bit", "train.gradient_accumulation_steps": 3,
    "train.per_device_train_batch_size": 2, "data.eval_fraction": 0.08, "data.max_length": 1536,
    "train.num_train_epochs": 2, "train.eval_steps": 0.1, "train.save_steps": 0.5,
}  # fmt: skip
FACTORY = {
    "model.name_or_path": "example/qwen3-4b", "model.dtype": "bfloat16", "adapter.r": 6,
    "adapter.lora_alpha": 12, "adapter.lora_dropout": 0, "adapter.target_modules": "all-linear",
    "model.trust_remote_code": True, "data.max_length": 2048, "data.over_long": "cut",
    "data.eval_fraction": 0, "train.learning_rate": 1.5e-4, "train.num_train_epochs": 2.5,
    "train.warmup_steps": 0.05, "train.save_steps": 400, "train.eval_steps": None,
    "train.per_device_train_batch_size": 1, "train.gradient_accumulation_steps": 10,
}  # fmt: skip
IMPORTED = {
    "axolotl/moe_qlora": AXOLOTL | {
        "model.name_or_path": "example/qwen-moe", "model.trust_remote_code": True,
        "train.optim": "adamw_8bit", "data.max_length": 768, "data.eval_fraction": 0.04,
        "train.num_train_epochs": 3, "train.eval_steps": pytest.approx(1 / 15, rel=1e-4),
        "train.save_steps": pytest.approx(1 / 3, rel=1e-4), "train.gradient_accumulation_steps": 6,
    },
    "axolotl/gemma_chat_qlora": AXOLOTL | {
        "data.path": "example/chats", "data.format": "sharegpt", "data.chat_template": "gemma",
        "data.drop_system": True, "data.columns": {}, "data.eval_fraction": 0,
        "train.eval_steps": None, "train.optim": "adamw_8bit",
    },
    "axolotl/lora_kernels": SMALL | {"adapter.lora_dropout": 0},
    "axolotl/lora_small": SMALL,
    "axolotl/alpaca_qlora": AXOLOTL | {
        "train.optim": "adamw_torch", "data.max_length": 3072, "train.eval_steps": None,
    },
    "axolotl/untemplated": {
        "model.quantization": "nf4", "data.path": None, "data.chat_template": None,
        "data.over_long": "drop", "train.warmup_steps": 4,
    },
    "llamafactory/sft": FACTORY | {
        "model.quantization": "none", "data.path": None, "data.chat_template": "qwen",
    },
    "llamafactory/qlora_sft": FACTORY | {
        "model.quantization": "nf4", "model.use_double_quant": False, "data.chat_template": "qwen",
    },
    "llamafactory/pretrain": FACTORY | {
        "model.quantization": "none", "data.format": "text", "data.chat_template": None,
        "data.path": "llamafactory/data/articles.jsonl", "data.columns": {}, "data.max_rows": 800,
    },
    "studio/lora": {
        "model.name_or_path": "example/llama-3-8b", "model.quantization": "nf4",
        "data.path": "rows.jsonl", "data.format": "messages", "data.max_length": 4096,
        "adapter.r": 32, "adapter.lora_alpha": 48, "adapter.target_modules": ["q_proj", "v_proj"],
        "train.num_train_epochs": 2, "train.learning_rate": 1e-4, "train.warmup_steps": 7,
        "train.per_device_train_batch_size": 3, "train.gradient_accumulation_steps": 4,
        "train.seed": 3407, "train.optim": "adamw_8bit", "train.lr_scheduler_type": "linear",
        "train.weight_decay": 0.01, "data.assistant_only_loss": True, "train.max_steps": None,
    },
    "mlx_lm/lora": {
        "model.quantization": "none", "data.path": "mlx_lm/rows/train.jsonl",
        "data.eval_path": "mlx_lm/rows/valid.jsonl", "adapter.lora_alpha": 32, "adapter.r": 8,
        "adapter.lora_dropout": 0.1, "adapter.target_modules": ["self_attn.q_proj", "self_attn.v_proj"],
        "train.max_steps": 300, "train.eval_steps": 50, "train.save_steps": 100, "train.seed": 11,
        "train.learning_rate": 2e-5, "train.warmup_steps": 50, "train.lr_scheduler_type": "cosine",
        "train.weight_decay": 0.01, "data.assistant_turns": "last", "data.assistant_only_loss": True,
    },
}  # fmt: skip
EIGHT_BITS = ["load_in_8bit"]
STOPPED: dict[str, tuple[list[str], list[str]]] = {
    "axolotl/full_finetune": ([], ["adapter"]),
    "axolotl/chat_lora_8bit": (EIGHT_BITS, []),
    "axolotl/alpaca_lora_8bit": (EIGHT_BITS, []),
    "axolotl/dpo_lora_8bit": ([*EIGHT_BITS, "special_tokens.eos_token"], ["rl"]),
    "axolotl/kto_qlora": (["datasets[0].type"], ["rl"]),
    "axolotl/dpo_qlora": (
        ["special_tokens.bos_token", "special_tokens.eos_token"], ["lora_modules_to_save", "rl"],
    ),
    "axolotl/mixture_qlora": ([], ["model_config.output_router_logits"]),
    "llamafactory/loraplus": ([], ["loraplus_lr_ratio"]),
    "llamafactory/pissa": ([], ["pissa_init"]),
    "llamafactory/merge": ([], ["export_dir"]),
    "llamafactory/dpo": ([], ["dataset", "stage"]),
    "board/saved": (["model_name_or_path"], []),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURES)  # so that a report's paths are the same everywhere


def get(config: RunConfig | None, key: str):
    value = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def keys(report: ImportReport, verdict) -> list[str]:
    return sorted(line.key for line in report.of(verdict))


def write(folder: Path, tree: object, name: str = "other.yaml") -> Path:
    file = folder / name
    file.write_text(dump_yaml(tree))
    return file


def test_every_fixture_is_judged():
    assert sorted([*IMPORTED, *STOPPED]) == FILES


@pytest.mark.parametrize("name", FILES)
def test_report_as_text(name):
    text = import_config(f"{name}.yaml").to_text(100)
    file = SNAPSHOTS / f"{name.replace('/', '-')}.txt"
    if os.environ.get("EVENFALL_UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 100 and "not-to-be-shown" not in text


@pytest.mark.parametrize("name", IMPORTED)
def test_values(name):
    report = import_config(f"{name}.yaml")
    assert {key: get(report.config, key) for key in IMPORTED[name]} == IMPORTED[name]


@pytest.mark.parametrize("name", STOPPED)
def test_what_stops_it(name):
    report = import_config(f"{name}.yaml")
    assert report.config is None
    assert (keys(report, "asked"), keys(report, "refused")) == STOPPED[name]


def test_data_sets_of_a_comma_list():
    config = import_config("llamafactory/sft.yaml").config
    assert config
    assert [(one.path, one.format, one.max_rows) for one in config.data.datasets] == [
        ("llamafactory/data/people.json", "alpaca", 800),
        ("llamafactory/data/tasks.json", "alpaca", 50),
    ]


@pytest.mark.parametrize(
    "name, want",
    [
        ("questions", {"path": "example/questions", "split": "validation",
                       "format": "prompt_completion",
                       "columns": {"prompt": "question", "completion": "answer"}}),
        ("chats", {"path": "example/chats", "format": "messages",
                   "columns": {"messages": "turns", "tools": "functions"}}),
        ("pictures", "refused"),
        ("nowhere", "asked"),
    ],
)  # fmt: skip
def test_registered_data_sets(tmp_path, name, want):
    tree = {**load_yaml(Path("llamafactory/sft.yaml").read_text()), "dataset": name}
    tree["dataset_dir"] = str(FIXTURES / "llamafactory/data")
    report = import_config(write(tmp_path, tree))
    if isinstance(want, str):
        assert [line.verdict for line in report.lines if line.key == "dataset"] == [want]
    else:
        assert {key: get(report.config, f"data.{key}") for key in want} == want


def test_answers_make_it_import():
    answers = ["model.quantization=nf4"]
    report = import_config("axolotl/chat_lora_8bit.yaml", answers)
    assert report.config and report.config.model.quantization == "nf4"
    assert report.config.data.chat_template == "llama-3" and report.config.data.format == "messages"
    board = import_config("board/saved.yaml", ["model.name_or_path=example/llama-3-8b"]).config
    assert board and board.train.learning_rate == 5e-5 and board.adapter.use_rslora
    assert board.train.optim == "adamw_torch" and board.train.weight_decay == 0.01
    assert (board.data.assistant_turns, board.data.max_rows) == ("last", 900)
    assert (board.data.eval_fraction, board.train.eval_steps) == (0.1, 120)


def test_eight_bit_alpaca_once_answered():
    config = import_config("axolotl/alpaca_lora_8bit.yaml", ["model.quantization=none"]).config
    want = AXOLOTL | {
        "model.quantization": "none", "model.name_or_path": "example/mistral-7b",
        "data.max_length": 6144, "data.eval_fraction": 0.08, "train.optim": "adamw_8bit",
        "train.per_device_train_batch_size": 2, "train.eval_steps": 0.1, "train.save_steps": 0.5,
    }  # fmt: skip
    assert {key: get(config, key) for key in want} == want


def test_an_override_wins():
    report = import_config("axolotl/lora_small.yaml", ["adapter.r=64", "train.max_steps=9"])
    assert report.config and (report.config.adapter.r, report.config.train.max_steps) == (64, 9)


BASE = {
    "base_model": "example/m", "adapter": "qlora", "lora_r": 8, "lora_alpha": 16,
    "lora_target_linear": True, "learning_rate": 1e-4, "datasets": [{"path": "a.jsonl", "type": "alpaca"}],
}  # fmt: skip


def test_an_unknown_key_is_asked_about_and_can_be_left_out(tmp_path):
    file = write(tmp_path, {**BASE, "frobnicate": 3})
    report = import_config(file)
    assert report.config is None and keys(report, "asked") == ["frobnicate"]
    assert "--ignore frobnicate" in report.to_text()
    assert import_config(file, ignore=["frobnicate"]).config
    with pytest.raises(ConvertError, match="nothing_there"):
        import_config(file, ignore=["nothing_there"])


@pytest.mark.parametrize(
    "key, value, verdict",
    [
        ("learning_rate", "fast", "refused"),
        ("lora_r", True, "refused"),
        ("lora_dropout", 1.5, "refused"),
        ("val_set_size", 200, "asked"),
        ("optimizer", "lion_8bit", "asked"),
        ("lr_scheduler", "polynomial", "asked"),
        ("peft_use_dora", True, "refused"),
        ("peft_use_dora", False, "ignored"),
        ("neftune_noise_alpha", 5, "refused"),
        ("lora_target_modules", "model.layers.*", "mapped"),
        ("train_on_inputs", True, "mapped"),
        ("load_in_4bit", False, "asked"),
        ("peft_init_lora_weights", True, "ignored"),
        ("peft_init_lora_weights", "pissa", "refused"),
        ("dataset_exact_deduplication", True, "mapped"),
        ("eval_table_size", 5, "ignored"),
        ("local_rank", 0, "ignored"),
    ],
)
def test_one_key(tmp_path, key, value, verdict):
    report = import_config(write(tmp_path, {**BASE, key: value}))
    assert [line.verdict for line in report.lines if line.key == key] == [verdict]


def test_cadence_once_in_the_run_is_no_step_count(tmp_path):
    tree = {
        **BASE,
        "num_epochs": 1,
        "saves_per_epoch": 1,
        "evals_per_epoch": 1,
        "val_set_size": 0.1,
    }
    config = import_config(write(tmp_path, tree)).config
    assert config and config.train.save_steps == 0.5 and config.train.eval_steps == 0.5


def test_keys_that_contradict_each_other(tmp_path):
    file = write(tmp_path, {**BASE, "save_steps": 50, "saves_per_epoch": 4})
    assert keys(import_config(file), "asked") == ["saves_per_epoch"]
    report = import_config(file, ["train.save_steps=50"])
    assert report.config and report.config.train.save_steps == 50
    config = import_config(write(tmp_path, {**BASE, "save_steps": 50, "save_strategy": "epoch"})).config
    assert config and config.train.save_steps == 50


def test_a_value_that_holds_itself(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("base_model: m\nodd: &a [*a]\ndatasets: &b [*b]\nspecial_tokens: &c {x: *c}\n")
    assert import_config(file).config is None


def test_constant_has_no_warm_up(tmp_path):
    plain = import_config(write(tmp_path, {**BASE, "lr_scheduler": "constant", "warmup_steps": 9}))
    with_it = import_config(write(tmp_path, {**BASE, "lr_scheduler": "constant_with_warmup", "warmup_steps": 9}))
    assert plain.config and plain.config.train.warmup_steps == 0
    assert with_it.config and with_it.config.train.warmup_steps == 9


def test_several_data_sets_and_mixed_prompts(tmp_path):
    sets = [
        {"path": "a.jsonl", "type": "gpteacher"},
        {"path": "b.jsonl", "type": "chat_template", "field_messages": "turns",
         "message_property_mappings": {"role": "who", "content": "said"}},
    ]  # fmt: skip
    file = write(tmp_path, {**BASE, "datasets": sets})
    assert keys(import_config(file), "asked") == ["datasets[].type"]
    config = import_config(file, ["data.chat_template=alpaca"]).config
    assert config and [one.columns for one in config.data.datasets] == [
        {"output": "response"}, {"messages": "turns", "role": "who", "content": "said"},
    ]  # fmt: skip
    assert config.data.path is None


@pytest.mark.parametrize(
    "content, words",
    [
        (b"base_model: [", "is not YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"- a\n- b\n", "expected the keys"),
        (b"", "expected the keys"),
        (b"1: 2\nbase_model: x\n", "must be a word"),
        (b"name: me\n", "no known tool"),
        (b"base_model: a\nbase_model: b\n", "set twice"),
        (RunConfig().to_yaml().encode(), "run.yaml already"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, words):
    file = tmp_path / "file.yaml"
    file.write_bytes(content)
    with pytest.raises(ConvertError, match=words) as caught:
        import_config(file)
    assert str(file) in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ConvertError, match="no such file"):
        import_config(tmp_path / "nothing.yaml")
    with pytest.raises(ConvertError, match="is a folder; name the configuration file"):
        import_config(tmp_path)


def test_overrides_that_do_not_fit():
    for override in ("model.quantisation=nf4", "adapter", "adapter.r=-1"):
        with pytest.raises(ConvertError):
            import_config("axolotl/lora_small.yaml", [override])


def test_json_is_read(tmp_path):
    file = tmp_path / "file.json"
    file.write_text('{"model_name_or_path": "m", "stage": "sft", "dataset": "x"}')
    assert import_config(file).tool == "LLaMA-Factory"
    file.write_text("{")
    with pytest.raises(ConvertError, match="not JSON"):
        import_config(file)


NESTED = {
    "special_tokens": ["pad_token", "eos_token"], "model_config": ["output_router_logits"],
    "bnb_config_kwargs": ["bnb_4bit_use_double_quant"], "lora_parameters": ["rank", "scale", "keys"],
    "lr_schedule": ["name", "arguments", "warmup"], "optimizer_config": ["adam", "adamw"],
    "hf_dataset": ["path", "train_split", "text_feature", "prompt_feature"],
    "training": ["num_epochs", "max_steps"], "lora": ["lora_r"], "data": ["dataset"],
}  # fmt: skip
ITEMS = [
    "path",
    "type",
    "split",
    "roles",
    "field_messages",
    "message_property_mappings",
    "data_files",
]
PROMPT = ["field_instruction", "field_input", "field_output", "format", "system_prompt", "odd"]
KNOWN = sorted(
    {*axolotl._TABLE, *llamafactory._TABLE, *mlx_lm._TABLE, *NESTED, "frob", "train.batch_size",
     "training.x", "test_datasets"}
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(),
    st.sampled_from(["", "auto", "none", "alpaca", "chat_template", "epoch", "cosine", "x,y", "4", "a/b"]),
)  # fmt: skip
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(ITEMS), SCALARS, max_size=3),
    st.lists(
        st.dictionaries(
            st.sampled_from(ITEMS),
            SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from(PROMPT), SCALARS, max_size=5),
            max_size=4,
        ),
        max_size=2,
    ),
)
MARKS = st.sampled_from(["base_model", "model_name_or_path", "iters", "top.template", "training"])


@st.composite
def trees(draw):
    tree = draw(st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=12))
    mark = draw(MARKS)
    tree[mark] = {"num_epochs": draw(SCALARS)} if mark == "training" else "example/m"
    if mark == "model_name_or_path":
        tree.setdefault("stage", "sft")
    for key, names in NESTED.items():
        if key in tree and draw(st.booleans()):
            tree[key] = draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=3))
    return tree


def leaves(key: str, value: object) -> bool:
    """Whether anything in it has a value."""
    if isinstance(value, dict):
        return any(leaves(key, part) for part in value.values())
    if isinstance(value, list):
        return any(leaves(key, part) for part in value)
    return value not in (None, "")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees())
def test_any_file_gives_a_report_that_names_each_key_once(tmp_path, tree):
    file = write(tmp_path, tree)
    try:
        report = import_config(file)
    except ConvertError:
        return
    said = [line.key for line in report.lines]
    of_file = [line.key for line in report.lines if line.value is not None]
    assert len(of_file) == len(set(of_file)), of_file
    for key, value in tree.items():
        if leaves(key, value):
            inside = [one for one in said if one == key or one.startswith((f"{key}.", f"{key}["))]
            assert inside, (key, value, said)
    assert report.to_text(60)
    assert (report.config is None) == bool(report.of("asked") or report.of("refused"))


def test_studio_is_told_from_its_sections():
    known = {"model": "some/model", "data": {"dataset": "rows"}, "training": {"max_steps": 30}}
    assert studio.recognise(known) and not studio.recognise({"training": "x"})
    assert not studio.recognise({"training": {"batch_size": 2, "epochs": 1, "lora": True}})


H2O = {
    "architecture": {"backbone_dtype": "int4"},
    "dataset": {"prompt_column": ["instruction"], "train_dataframe": "rows.pq"},
    "llm_backbone": "some/base-model",
    "training": {"batch_size": 2, "epochs": 1, "learning_rate": 0.0001, "lora": True, "lora_r": 4},
}
LITGPT = {
    "checkpoint_dir": "checkpoints/some/model",
    "data": {"class_path": "litgpt.data.Alpaca2k", "init_args": {"mask_prompt": False}},
    "train": {"global_batch_size": 6, "micro_batch_size": 2, "epochs": 1},
}
OUMI = {
    "model": {"model_name": "some/model", "model_max_length": 2048},
    "data": {"train": {"datasets": [{"dataset_name": "some/rows"}]}},
    "training": {"trainer_type": "TRL_SFT", "per_device_train_batch_size": 2, "learning_rate": 2.0e-05},
    "peft": {"lora_r": 8},
}


@pytest.mark.parametrize("tree", [H2O, LITGPT, OUMI])
def test_a_file_of_an_unknown_tool_is_called_so(tmp_path, tree):
    with pytest.raises(ConvertError, match=r"no known tool has these keys.*axolotl, LLaMA-Factory.*are known"):
        import_config(write(tmp_path, tree))


def test_a_run_yaml_is_told_from_its_own_keys(tmp_path):
    ours = {"model": {"name_or_path": "demo"}, "data": {"path": "rows.jsonl"}, "train": {"max_steps": 3}}
    with pytest.raises(ConvertError, match=r"is a run\.yaml already"):
        import_config(write(tmp_path, ours))


def test_studios_steps_decide_over_no_epochs(tmp_path):
    tree = {
        "model": "some/model", "data": {"dataset": "some/rows"}, "lora": {"lora_r": 16},
        "training": {"num_epochs": 0, "max_steps": 30, "warmup_ratio": 0.1},
    }  # fmt: skip
    report = import_config(write(tmp_path, tree))
    assert report.config is not None
    assert (report.config.train.max_steps, report.config.train.warmup_steps) == (30, 0.1)
    logs = {"enable_wandb": True, "log_frequency": 10, "tensorboard_dir": "logs"}
    training = {"max_steps": 30, "logging_steps": 5, "report_to": "none"}
    layers = {"lora_r": 16, "target_modules": ["all-linear"]}
    report = import_config(write(tmp_path, {**tree, "training": training, "lora": layers, "logging": logs}))
    assert report.config is not None and report.config.adapter.target_modules == "all-linear"
    tree["training"] = {"num_epochs": 0}
    assert import_config(write(tmp_path, tree)).config is None


def test_an_optimiser_without_a_counterpart_is_a_question_that_an_override_answers(tmp_path):
    tree = {**BASE, "optimizer": "adamw_torch_8bit"}
    assert import_config(write(tmp_path, tree)).config is None
    answered = import_config(write(tmp_path, tree), ["train.optim=adamw_8bit"])
    assert answered.config is not None and answered.config.train.optim == "adamw_8bit"
