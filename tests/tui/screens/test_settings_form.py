"""The settings form reaches every key of a run, explains it, marks what is not the default and takes it back; and
recipes say what they set before they are taken, and can be undone."""

from types import SimpleNamespace
from typing import Any

import pytest
from textual.widgets import Static
from waiting import until

from evenfall.engine.config.run_config import RunConfig, config_fields
from evenfall.presets.load import recipe_presets
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import model as model_screen
from evenfall.tui.state import settings
from evenfall.tui.state.desk import Desk
from evenfall.tui.state.machine import Machine
from evenfall.tui.value_text import field_text
from evenfall.tui.widgets.field import Choice, TextField
from evenfall.tui.widgets.form import Form
from evenfall.tui.widgets.pick_list import PickList

SIZES = [(120, 36), (80, 24)]
CPU = Machine(gpus=(), cpus=2, memory_gb=25.0, disk_free_gb=81.0, multiplexer=True)
KEYS = [field.key for field in config_fields()]


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(model_screen, "read_machine", lambda folder: CPU)
    return EvenfallApp()


async def open_form(pilot):
    await until(pilot, lambda: pilot.app.screen._machine is None)
    await pilot.press("a")
    await pilot.pause()
    return pilot.app.screen.query_one(Form)


def row_of(app, key):
    return app.screen.query_one(Form)._rows[key]


async def edit(pilot, key, text):
    """Type into the field of a key."""
    row_of(pilot.app, key).control.focus()
    await pilot.pause()
    pilot.app.screen.focused.value = text
    await pilot.press("enter")
    await pilot.pause()


def told(app):
    """The last notice."""
    return app.notices.current()[0].text


def help_of(app):
    return str(app.screen.query_one(".form-help", Static).content)


# Every key


def test_every_key_of_a_run_has_one_row_under_its_section():
    rows = settings.DraftEditor.rows()
    assert sorted(row.key for row in rows) == sorted(KEYS)
    for row in rows:
        section, _, name = row.key.rpartition(".")
        assert row.title == name and row.section.startswith(section or "run.yaml")
        assert row.help.startswith(f"{row.key}: ") and "\ntakes " in row.help and " · default " in row.help
        assert len(row.help.partition("\n")[0]) > len(row.key) + 3, "it has no description"
    sections = [row.section for row in rows]
    assert sections == sorted(sections, key=sections.index), "each section stands in one piece"


def test_all_rows_are_reached_with_the_arrows_and_explain_themselves(app, drive, see):
    async def scenario(pilot):
        form = await open_form(pilot)
        seen = []
        for _ in KEYS:
            await pilot.press("down")
            row = form._at
            assert row is not None
            seen.append(row.row.key)
            assert help_of(app).startswith(row.row.help)
            assert row.row.title in see(app), "it is scrolled into view"
        assert sorted(seen) == sorted(KEYS)
        await pilot.press("pageup", "up")
        assert form._at.row.key == seen[-12]

    drive(app, scenario, (80, 24))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.warmup_steps", "0.1", 0.1),
        ("train.weight_decay", "0.01", 0.01),
        ("adapter.lora_dropout", "0.05", 0.05),
        ("data.max_rows", "5000", 5000),
        ("train.seed", "7", 7),
        ("train.adam_epsilon", "1e-6", 1e-6),
        ("export.forms", "adapter, merged", ["adapter", "merged"]),
        ("data.columns", "prompt: question, completion: answer", {"prompt": "question", "completion": "answer"}),
        ("data.columns", '{"prompt": "a, b"}', {"prompt": "a, b"}),
        ("data.ignore", "id, when", ["id", "when"]),
        ("data.date", "2026-01-31", None),
        ("name", "night-run", "night-run"),
        ("output_dir", "elsewhere", "elsewhere"),
    ],
)
def test_a_key_is_set_as_run_yaml_would_have_it(app, drive, key, text, value):
    async def scenario(pilot):
        await open_form(pilot)
        await edit(pilot, key, text)
        assert app.desk.refused.why_no_start() is None
        now = settings.value_of(app.desk.draft, key)
        assert now == value if value is not None else str(now) == text
        again = RunConfig().with_overrides([settings.override_of(key, field_text(now))])
        assert settings.value_of(again, key) == now, "what the field shows means what it was set to"

    drive(app, scenario, (80, 24))


def test_words_are_turned_and_null_is_one_of_them(app, drive):
    async def scenario(pilot):
        await open_form(pilot)
        for key, presses in (("train.lr_scheduler_type", 1), ("data.header", 1), ("train.on_oom", 2)):
            control = row_of(app, key).control
            assert isinstance(control, Choice)
            control.focus()
            await pilot.press(*["right"] * presses)
        draft = app.desk.draft
        assert (draft.train.lr_scheduler_type, draft.data.header, draft.train.on_oom) == ("linear", True, "fail")
        row_of(app, "data.header").control.focus()
        await pilot.press("left")
        assert app.desk.draft.data.header is None

    drive(app, scenario)


def test_what_takes_more_than_a_field_leads_to_where_it_is_set(app, drive, see):
    async def scenario(pilot):
        await open_form(pilot)
        row_of(app, "data.path").control.focus()
        await pilot.pause()
        assert "enter goes there" in help_of(app)
        await pilot.press("ctrl+r")
        await pilot.press("enter")
        await pilot.pause()
        assert app.current_mode == "data"
        await pilot.press("f2")
        row_of(app, "model.name_or_path").control.focus()
        await pilot.press("enter")
        await pilot.pause()
        assert app.screen.query_one("#model-find").has_focus and not app.screen.has_class("-advanced")

    drive(app, scenario, (80, 24))


def test_settings_and_the_data_screen_show_the_same_draft(app, drive):
    async def scenario(pilot):
        await open_form(pilot)
        await edit(pilot, "data.max_length", "512")
        await edit(pilot, "data.eval_fraction", "0.1")
        await pilot.press("f3")
        await pilot.pause()
        length, held = (app.screen.query_one(f"#{id}", TextField) for id in ("data-length", "data-held"))
        assert (length.value, held.value) == ("512", "0.1")
        length.focus()
        length.value = "1024"
        await pilot.press("enter", "f2")
        await pilot.pause()
        assert row_of(app, "data.max_length").control.value == "1024"

    drive(app, scenario)


# Found, marked, taken back


@pytest.mark.parametrize("size", SIZES)
def test_typing_narrows_the_settings(app, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        form = await open_form(pilot)
        await pilot.press(*"warm")
        titles = [row.row.title for row in form._shown()]
        assert "warmup_steps" in titles and "seed" not in titles
        assert "model:" not in see(app), "a section without rows has no heading"
        same_as_snapshot(app, "model-settings-find")
        await pilot.press("down")
        assert form._at.row.key in ("train.warmup_steps", "train.lr_scheduler_type")
        await pilot.press("up", "escape")
        assert len(form._shown()) == len(KEYS) and form.has_focus_within
        await pilot.press("escape", "escape")
        assert not app.screen.has_class("-advanced")

    drive(app, scenario, size)


def test_what_is_not_the_default_is_marked_and_one_key_takes_it_back(app, drive, see):
    async def scenario(pilot):
        await open_form(pilot)
        assert "  use_rslora" in see(app) and "• use_rslora" not in see(app)
        await edit(pilot, "adapter.r", "64")
        assert "• r  " in see(app)
        row_of(app, "adapter.r").control.focus()
        await pilot.press("9", "ctrl+r")  # what is being typed is given up too
        await pilot.pause()
        assert app.desk.draft.adapter.r == 16 and "• r  " not in see(app)
        assert row_of(app, "adapter.r").control.value == "16"
        app.desk.update_draft(["train.eval_steps=5", "data.eval_fraction=0.1"])
        row_of(app, "data.eval_fraction").control.focus()
        await pilot.press("ctrl+r")  # a default can be what does not fit
        await pilot.pause()
        assert app.desk.draft.data.eval_fraction == 0.1
        error = row_of(app, "data.eval_fraction").query_one(".row-error", Static)
        assert error.display and "there is nothing to evaluate on" in str(error.content)
        assert app.desk.refused.why_no_start()
        await pilot.press("escape")
        assert app.desk.refused.why_no_start() is None
        assert row_of(app, "data.eval_fraction").control.value == "0.1"
        row_of(app, "train.eval_steps").control.focus()
        await pilot.press("ctrl+r")
        await pilot.pause()
        assert app.desk.draft.train.eval_steps is None

    drive(app, scenario)


# Recipes and undo


async def to_recipe(pilot, title):
    recipes = pilot.app.screen.query_one("#recipes", PickList)
    recipes.focus_rows()
    await pilot.press("home")
    titles = [row.cells[0] for row in recipes._rows]
    await pilot.press(*["down"] * titles.index(title))
    await pilot.pause()


@pytest.mark.parametrize("size", SIZES)
def test_a_recipe_shows_the_values_that_it_will_set(app, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await until(pilot, lambda: app.screen._machine is None)
        await to_recipe(pilot, "Small data")
        shown = " ".join(see(app).split())
        for text in ("data.eval_fraction 0 → 0.1", "data.max_rows 200 → null", "train.num_train_epochs 1 → 3"):
            assert text in shown or size == SIZES[1]
        assert "adapter.r 16 →" not in shown, "what stays is no change"
        same_as_snapshot(app, "model-recipe")
        await pilot.press("enter")
        await pilot.pause()
        assert "follows it already" in see(app)

    drive(app, scenario, size)


def test_what_is_told_before_is_what_is_taken(tmp_path):
    """Of every recipe after every other one."""
    host: Any = SimpleNamespace(draft_changed=lambda: None)
    desk = Desk(host, root=tmp_path)
    editor = settings.DraftEditor(desk)
    editor.begin()
    for first in recipe_presets():
        for second in recipe_presets():
            editor.take_recipe(first.id)
            before, told = desk.draft, editor.changes_of_recipe(second.id)
            assert all(one.old == settings.value_of(before, one.key) and one.old != one.new for one in told)
            assert editor.take_recipe(second.id) == [one.key for one in told]
            assert all(one.new == settings.value_of(desk.draft, one.key) for one in told)
            if told:
                undone = editor.undo()
                assert desk.draft == before and undone.back == tuple(told) and not undone.kept


def test_taking_is_undone_step_by_step_and_says_what_came_back(app, drive, see):
    async def scenario(pilot):
        await until(pilot, lambda: app.screen._machine is None)
        await pilot.press("u")
        await pilot.pause()
        assert "no model or recipe was taken" in told(app)
        first = app.desk.draft
        await pilot.press("down", "down", "enter")  # llama-3.2-1b
        second = app.desk.draft
        await to_recipe(pilot, "Small data")
        await pilot.press("enter")
        await pilot.pause()
        assert app.desk.draft not in (first, second) and "u Undo" in see(app)
        app.notices.clear()
        await pilot.press("u")
        await pilot.pause()
        assert app.desk.draft == second
        assert told(app).startswith("Small data taken back: ") and "train.num_train_epochs 1" in told(app)
        assert "● Instruction tuning" in see(app)
        await pilot.press("u")
        await pilot.pause()
        assert app.desk.draft == first and "● demo" in see(app) and "u Undo" not in see(app)

    drive(app, scenario)


def test_what_was_set_by_hand_since_stays_when_a_recipe_is_undone(app, drive, see):
    async def scenario(pilot):
        await until(pilot, lambda: app.screen._machine is None)
        await to_recipe(pilot, "Small data")
        await pilot.press("enter")
        await pilot.pause()
        app.desk.update_draft(["data.eval_fraction=0.3", "train.seed=5"])
        app.notices.clear()
        await pilot.press("u")
        await pilot.pause()
        draft = app.desk.draft
        assert draft.data.eval_fraction == 0.3 and draft.train.seed == 5
        assert draft.train.num_train_epochs == 1 and draft.data.max_rows == 200
        assert told(app).endswith("set since, so they stay: data.eval_fraction")

    drive(app, scenario)


def test_a_draft_that_was_replaced_is_not_undone_into_the_one_before(app, drive):
    async def scenario(pilot):
        await until(pilot, lambda: app.screen._machine is None)
        await to_recipe(pilot, "Small data")
        await pilot.press("enter")
        cloned = app.desk.draft.with_overrides(["train.seed=3"])
        app.desk.set_draft(cloned)  # as Runs does with c
        await pilot.press("u")
        await pilot.pause()
        assert app.desk.draft == cloned

    drive(app, scenario)
