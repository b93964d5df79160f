"""run.yaml, overrides and their errors: nothing is lost, nothing is guessed, every refusal helps."""

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenfall.engine.config.run_config import (
    ConfigError,
    RunConfig,
    config_fields,
    load_config,
    parse_config,
)

AMBIGUOUS = [
    "1e-4", "1e5", "1.e5", "1E+3", "08", "007", "0o14", "0x1f", "1_000", "12:30:45", ".5", "5.",
    "-1", "+3", ".inf", "-.inf", ".nan", "inf", "nan", "no", "No", "yes", "on", "off", "y", "n",
    "true", "TRUE", "false", "null", "Null", "~", "", " ", "  leading", "trailing  ", "a\nb", "\n",
    "a\r\nb", "\ttab", "- item", "a: b", "#comment", "x #y", "[a, b]", "{a: b}", "'", '"', "!tag",
    "&anchor", "*alias", "%percent", "@at", "`tick", "|", ">", "?", "=", "<<", "---", "...",
    "2024-01-01", "2024-01-01T00:00:00Z", "模型/训练.jsonl", "مرحبا", "👩‍👩‍👧", "\x85", "\u2028",
    "\ufeffbom", "\x00nul", "\x1b[2J", "\x7f", "\xa0", "a" * 300, "word " * 60,
]  # fmt: skip
texts = st.one_of(
    st.sampled_from(AMBIGUOUS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(string.digits + "+-.eE_:xo", max_size=8),
)
filled = texts.filter(bool)


def numbers(low: float, high: float, **options: Any) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_infinity=False, **options)


trees = st.fixed_dictionaries(
    {
        "output_dir": filled,
        "model": st.fixed_dictionaries(
            {
                "name_or_path": filled,
                "revision": st.none() | texts,
                "quantization": st.sampled_from(["nf4", "none"]),
                "dtype": st.sampled_from(["auto", "bfloat16", "float16", "float32"]),
                "trust_remote_code": st.booleans(),
            }
        ),
        "adapter": st.fixed_dictionaries(
            {
                "r": st.integers(1, 1024),
                "lora_alpha": numbers(0, 1e300, exclude_min=True),
                "lora_dropout": numbers(0, 1, exclude_max=True),
                "target_modules": st.just("all-linear") | st.lists(texts, min_size=1, max_size=4),
                "use_rslora": st.booleans(),
            }
        ),
        "data": st.fixed_dictionaries(
            {
                "path": filled,
                "name": st.none() | texts,
                "split": filled,
                "max_rows": st.none() | st.integers(1, 10**12),
                "eval_path": st.none() | filled,
            }
        ),
        "train": st.fixed_dictionaries(
            {
                "num_train_epochs": numbers(0, 1e6, exclude_min=True),
                "optim": st.sampled_from(["adamw_torch", "adamw_8bit"]),
                "learning_rate": numbers(0, 10),
                "adam_epsilon": numbers(0, 1, exclude_min=True),
                "weight_decay": numbers(0, 1),
                "seed": st.integers(0, 2**31 - 1),
            }
        ),
        "export": st.fixed_dictionaries(
            {
                "forms": st.lists(st.sampled_from(["adapter", "merged"]), min_size=1),
                "max_shard_size_gb": numbers(0, 1e4, exclude_min=True),
            }
        ),
    },
    # Python's \w takes "²" for a digit, pydantic's does not.
    optional={
        "name": st.none()
        | st.from_regex(r"\A[\w][\w.\-]{0,63}\Z", alphabet=st.characters(exclude_categories=["Cs", "No"]))
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_a_file_gives_back_the_tree_that_was_written(tmp_path: Path, tree: dict[str, Any]) -> None:
    config = parse_config(tree)
    file = tmp_path / "run.yaml"
    file.write_bytes(config.to_yaml().encode())
    assert load_config(file) == config


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_text_that_looks_like_something_else_stays_text(tmp_path: Path, text: str) -> None:
    tree = {"model": {"revision": text}, "adapter": {"target_modules": [text]}}
    config = parse_config(tree)
    file = tmp_path / "run.yaml"
    file.write_bytes(config.to_yaml().encode())
    read = load_config(file)
    assert read.model.revision == text and read.adapter.target_modules == [text]
    # Other YAML readers, which follow YAML 1.1, must see the same text.
    assert yaml.safe_load(config.to_yaml())["model"]["revision"] == text


def test_the_file_holds_defaults_so_that_later_defaults_change_nothing() -> None:
    tree = yaml.safe_load(RunConfig().to_yaml())
    keys = {field.key for field in config_fields()}
    for key in keys:
        node: Any = tree
        for part in key.split("."):
            assert part in node, key
            node = node[part]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.learning_rate=1e-4", 1e-4),
        ("train.learning_rate=1E-4", 1e-4),
        ("train.learning_rate=.001", 1e-3),
        ("train.learning_rate=1", 1.0),
        ("adapter.target_modules=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("adapter.target_modules=all-linear", "all-linear"),
        ("train.max_steps=null", None),
        ("train.max_steps=", None),
        ("train.max_steps=12", 12),
        ("data.path='1e-4'", "1e-4"),
        ('data.path="a = b"', "a = b"),
        ("data.path=a=b", "a=b"),
        ("data.path=no", "no"),
        ("data.path=on", "on"),
        ("data.path=2024-01-01", "2024-01-01"),
        ("data.shuffle=false", False),
        ("name=007x", "007x"),
        (" train.seed =7", 7),
    ],
)
def test_overrides_are_read_as_yaml(override: str, value: Any) -> None:
    node: Any = RunConfig().with_overrides([override])
    for part in override.partition("=")[0].strip().split("."):
        node = getattr(node, part)
    assert node == value and type(node) is type(value)


def test_later_overrides_win_and_the_original_stays() -> None:
    base = RunConfig()
    changed = base.with_overrides(["train.seed=1", "train.seed=2", "adapter.r=4"])
    assert (changed.train.seed, changed.adapter.r) == (2, 4)
    assert base == RunConfig()


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        RunConfig().with_overrides(overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        # wrong type, out of bounds, not a choice: the key, what it got, what it takes
        ("train.learning_rate=fast", ["train.learning_rate", "'fast'", "number from 0 to 10"]),
        ("train.learning_rate=11", ["train.learning_rate", "11", "from 0 to 10"]),
        ("train.learning_rate=.nan", ["train.learning_rate", "nan", "number"]),
        ("train.learning_rate=.inf", ["train.learning_rate", "inf", "number"]),
        ("adapter.lora_dropout=1", ["adapter.lora_dropout", "1", "below 1"]),
        ("adapter.r=0", ["adapter.r", "0", "from 1 to 1024", "rank"]),
        ("adapter.r=1.5", ["adapter.r", "1.5", "whole number"]),
        ("adapter.r=[1]", ["adapter.r", "[1]", "whole number"]),
        ("adapter.target_modules=[]", ["adapter.target_modules", "[]", "list of text"]),
        ("adapter.target_modules=[1]", ["adapter.target_modules", "1", "list of text"]),
        ("model.quantization=int8", ["model.quantization", "'int8'", "nf4 | none"]),
        ("train.optim=adam8bit", ["train.optim", "'adam8bit'", "adamw_torch | adamw_8bit"]),
        ("train.on_oom=never", ["train.on_oom", "'never'", "ask | recover | fail"]),
        ("export.forms=[gguf]", ["export.forms", "'gguf'", "adapter | merged"]),
        ("data.shuffle=maybe", ["data.shuffle", "'maybe'", "true | false"]),
        ("data.path=", ["data.path is empty", "name a file", "data.datasets"]),
        ('data.path=""', ["data.path: is empty, takes text", "file (json"]),
        ("model.name_or_path=", ["model.name_or_path: is empty, takes text (hub id"]),
        ('model.name_or_path=""', ["model.name_or_path: is empty, takes text (hub id"]),
        ('data.eval_path=""', ["data.eval_path: is empty"]),
        ("data.path={a: b}", ["data.path", "{'a': 'b'}", "text"]),
        ("name=a/b", ["name", "'a/b'", "run name"]),
        ("name=../x", ["name", "'../x'"]),
        ("name=.hidden", ["name", "'.hidden'"]),
        ("train=3", ["train", "3", "section"]),
        # not readable at all
        ("train.seed", ["'train.seed'", "section.key=value"]),
        ("data.path=[a", ["data.path", "'[a'"]),
        ("data.path={a: 1, a: 2}", ["data.path", "'a' is set twice"]),
        (f"train.seed={'9' * 5000}", ["train.seed"]),
        # unknown keys: the nearest known one
        ("train.learning_rte=1", ["train.learning_rte", "did you mean train.learning_rate?"]),
        ("data.learning_rate=1", ["data.learning_rate", "did you mean train.learning_rate?"]),
        ("learning_rate=1", ["learning_rate", "did you mean train.learning_rate?"]),
        ("trian.learning_rate=1", ["trian.learning_rate", "did you mean train.learning_rate?"]),
        ("modle.name=3", ["modle.name", "did you mean model.name_or_path"]),
        ("model.name=x", ["model.name", "did you mean model.name_or_path"]),
        ("train.lr=1", ["train.lr", "did you mean train.learning_rate"]),
        ("train.epochs=1", ["train.epochs", "did you mean train.num_train_epochs?"]),
        ("adaptor.rank=4", ["adaptor.rank", "there are: adapter.r,"]),
        ("train.max_length=4", ["train.max_length", "did you mean data.max_length?"]),
        ("nmae=x", ["nmae", "did you mean name?"]),
        ("modell=x", ["modell", "did you mean model?"]),
        ("foo.bar=1", ["foo.bar", "there are: adapter, data, export, model"]),
        ("adapter.zzz=1", ["adapter.zzz", "there are: adapter.r, adapter.lora_alpha"]),
        ("name.foo=1", ["name.foo"]),
        ("train.learning_rate.x=1", ["train.learning_rate.x"]),
        ("=1", ["no such key"]),
        ("train.=1", ["no such key"]),
    ],
)
def test_a_refused_override_names_the_key_and_the_fix(override: str, expected: list[str]) -> None:
    message = refused(override)
    assert not [part for part in expected if part not in message], message
    assert len(message) < 1200 and "pydantic" not in message


def test_every_key_at_fault_is_named_at_once_each_on_a_line() -> None:
    message = refused("adapter.r=0", "train.seed=-1", "data.pth=x")
    assert [line.split(":")[0] for line in message.splitlines()] == [
        "adapter.r",
        "data.pth",
        "train.seed",
    ]


def test_evaluation_needs_held_out_rows() -> None:
    message = refused("train.eval_steps=10")
    assert "train.eval_steps" in message and "data.eval_fraction" in message
    RunConfig().with_overrides(["train.eval_steps=10", "data.eval_fraction=0.1"])
    RunConfig().with_overrides(["train.eval_steps=10", "data.eval_path=x.jsonl"])


def in_file(tmp_path: Path, content: bytes | str) -> str:
    file = tmp_path / "my run.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("train:\n  seed: 1\n  seed: 2\n", ["line 3", "'seed' is set twice"]),
        ("train: {seed: 1}\ntrain: {seed: 2}\n", ["line 2", "'train' is set twice"]),
        ("train: [\n", ["is not YAML"]),
        ("a: b: c\n", ["is not YAML"]),
        ("? [a]\n: b\n", ["a key must be a word"]),
        ("- 1\n- 2\n", ["expected sections", "[1, 2]"]),
        ("just words\n", ["expected sections", "'just words'"]),
        ("train: !!python/object:os.system {}\n", ["is not YAML"]),
        ("a: 1\n--- \nb: 2\n", ["is not YAML"]),
        (b"\xff\xfe\x00", ["cannot be read", "utf-8"]),
        (b"data: {path: caf\xe9}\n", ["cannot be read", "utf-8"]),
        ("data: {path: \x07}\n", ["is not YAML"]),
        ("modle: {name: x}\n", ["modle", "did you mean model?"]),
        ("train: {learning_rte: 1}\n", ["train.learning_rte", "did you mean train.learning_rate?"]),
        ("learning_rate: 1\n", ["learning_rate", "did you mean train.learning_rate?"]),
        ("train: 5\n", ["train", "5", "section"]),
        ("train:\n", ["train", "None", "section"]),
        ("1: 2\n", ["1", "no such key"]),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, content: bytes | str, expected: list[str]
) -> None:
    message = in_file(tmp_path, content)
    assert not [part for part in expected if part not in message], message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: .*directory"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "# to be written\n", "---\n", "{}", "null\n", "~"])
def test_an_empty_file_is_no_run_and_says_what_to_write(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    for overrides in ([], ["train.seed=5"]):
        with pytest.raises(ConfigError, match=r"run\.yaml: is empty") as caught:
            load_config(file, overrides)
        assert "name_or_path:" in caught.value.hint and "path: rows.jsonl" in caught.value.hint


def test_overrides_alone_make_a_run() -> None:
    assert parse_config(None).with_overrides(["train.seed=5"]).train.seed == 5


def test_numbers_and_words_of_a_file_mean_what_they_say(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "name: no\nmodel: {revision: on}\ndata: {path: 2024-05-01, name: yes}\n"
        "train: {learning_rate: 1e-4, adam_epsilon: 1e-08, max_steps: 010}\n"
    )
    config = load_config(file)
    assert (config.name, config.model.revision, config.data.name) == ("no", "on", "yes")
    assert config.data.path == "2024-05-01"
    assert (config.train.learning_rate, config.train.adam_epsilon) == (1e-4, 1e-8)
    assert config.train.max_steps == 10


def test_every_key_says_what_it_takes_and_what_it_is_for() -> None:
    fields = list(config_fields())
    assert len({field.key for field in fields}) == len(fields) > 40
    for field in fields:
        assert field.description, field.key
        assert field.takes and "<class" not in field.takes and "typing" not in field.takes, field
    takes = {field.key: field.takes for field in fields}
    assert takes["train.learning_rate"] == "number from 0 to 10"
    assert takes["adapter.lora_dropout"] == "number from 0 below 1"
    assert takes["train.max_steps"] == "whole number from 1 or null"
    assert takes["model.quantization"] == "nf4 | none"


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().train.seed = 1  # type: ignore[misc]
