"""The fields for a model and for data complete paths, and show what there is."""

import json

import pytest
from data_screen import SIZES, data_asked, show_data  # noqa: F401 - a fixture
from waiting import until

from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import model as model_screen
from evenfall.tui.state.machine import Machine


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(
        model_screen,
        "read_machine",
        lambda folder: Machine(gpus=(), cpus=2, memory_gb=25.0, disk_free_gb=81.0, multiplexer=True),
    )
    for name in ("models/llama-a", "models/llama-b", "rows"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("models/llama-a", "models/llama-b"):
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
        for file in ("model.safetensors", "tokenizer.json"):
            (tmp_path / name / file).write_bytes(b"")
    for name in ("models/readme.md", "rows/chats.jsonl", "rows/chats-2.jsonl"):
        (tmp_path / name).write_text("")
    return EvenfallApp()


@pytest.mark.parametrize("size", SIZES)
def test_a_model_folder_is_completed_and_taken(app, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await until(pilot, lambda: app.screen._machine is None)
        await pilot.press("slash", *"mo", "tab", "tab")
        await pilot.pause()
        assert app.screen.query_one("#model-find").value == "models/llama-"
        assert "2 begin so: llama-a/  llama-b/" in see(app) and "readme" not in see(app)
        same_as_snapshot(app, "model-path")
        await pilot.press("b")
        await pilot.pause()
        assert "begin so" not in see(app), "what is typed is told of again"
        await pilot.press("tab")
        await pilot.pause()
        assert "enter takes llama-b: llama" in see(app)
        await pilot.press("enter")

    drive(app, scenario, size)
    assert app.desk.draft.model.name_or_path == "models/llama-b"


@pytest.mark.parametrize("size", SIZES)
def test_a_data_file_is_completed_and_read(app, asked, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("slash", *["backspace"] * 4, *"ro", "tab", "tab")
        await pilot.pause()
        assert app.screen.query_one("#data-path").value == "rows/chats"
        assert "2 begin so: chats-2.jsonl  chats.jsonl" in see(app)
        same_as_snapshot(app, "data-path")
        await pilot.press("full_stop", "right", "enter")
        await until(pilot, lambda: len(asked) == 2 and app.screen._job is None)
        assert "begin so" not in see(app) and "12,431 read" in see(app)

    drive(app, scenario, size)
    assert app.desk.draft.data.path == "rows/chats.jsonl"


def test_tab_leaves_the_path_of_the_data_where_nothing_is_left_to_complete(app, asked, drive):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("slash", "tab")
        assert not app.screen.query_one("#data-path").has_focus

    drive(app, scenario)
