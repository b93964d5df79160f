"""Editing the draft by presets: what is chosen is what is trained, and nothing of another preset stays."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.presets.load import model_preset, recipe_preset
from evenfall.tui.state.desk import Desk
from evenfall.tui.state.model_catalog import ModelEntry, catalogue, look_up
from evenfall.tui.state.settings import DraftEditor

QWEN = model_preset("qwen2.5-0.5b").name_or_path


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("one", "two", "mit 😀"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
        for file in ("model.safetensors", "tokenizer.json"):
            (tmp_path / name / file).write_bytes(b"")
    host: Any = SimpleNamespace(draft_changed=lambda: None)
    return Desk(host, root=tmp_path / "runs")


@pytest.fixture
def editor(desk):
    editor = DraftEditor(desk)
    editor.begin()
    return editor


def entry(name: str) -> ModelEntry:
    return look_up(name, catalogue())


@pytest.mark.parametrize(
    "chosen",
    [
        ["./one"],
        [QWEN, "./one"],
        ["demo", "./one"],
        ["./one", QWEN],
        ["./one", "demo"],
        ["./one", "./two"],
        [QWEN, "./one", QWEN, "./two"],
        [QWEN, "some/other-lm"],
        [QWEN, "./mit 😀"],
        ["./one", "./one"],
    ],
)
def test_the_model_that_was_chosen_last_is_the_one_that_trains(desk, editor, chosen):
    for name in chosen:
        keys = editor.take_model(entry(name))
        assert len(keys) == len(set(keys))
        assert desk.draft.model.name_or_path == entry(name).name_or_path


@pytest.mark.parametrize("before", [[], [QWEN]])
def test_a_recipe_leaves_the_chosen_folder_alone(desk, editor, before):
    for name in [*before, "./one"]:
        editor.take_model(entry(name))
    for recipe in ("small-data", "quick-test", "small-data"):
        keys = editor.take_recipe(recipe)
        assert "model.name_or_path" not in keys and len(keys) == len(set(keys))
        assert desk.draft.model.name_or_path == "one"


def test_a_recipe_leaves_the_model_of_a_given_configuration_alone(desk):
    desk.set_draft(RunConfig().with_overrides(["model.name_or_path=one", "train.seed=9"]))
    editor = DraftEditor(desk)
    editor.begin()
    editor.take_recipe("small-data")
    assert desk.draft.model.name_or_path == "one" and desk.draft.train.seed == 9


def test_nothing_of_a_preset_stays_when_a_folder_takes_its_place(desk, editor):
    assert desk.draft.data.max_length == 256  # the demo's own
    editor.take_model(entry("./one"))
    assert desk.draft.data.max_length == recipe_preset("quick-test").settings["data.max_length"]


def test_what_was_said_of_one_model_does_not_go_over_to_another(desk, editor):
    editor.take_model(entry("./one"))
    desk.update_draft(["model.revision=v2", "model.trust_remote_code=true"])
    assert editor.take_model(entry("./one")) == []
    assert desk.draft.model.revision == "v2" and desk.draft.model.trust_remote_code
    keys = editor.take_model(entry("./two"))
    assert {"model.revision", "model.trust_remote_code"} <= set(keys)
    assert desk.draft.model.revision is None and not desk.draft.model.trust_remote_code
