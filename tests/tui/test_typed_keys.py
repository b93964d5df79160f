"""Keys that arrive at once mean what they mean slowly; and nothing acts unseen."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from textual import events
from textual.keys import _character_to_key
from textual.widgets import Input, OptionList
from waiting import until

from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.tui import typed_keys
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens.dialogs.columns import ColumnsModal
from evenfall.tui.screens.dialogs.common import LearningRateModal, QuitModal, StopModal
from evenfall.tui.screens.dialogs.help import HelpModal
from evenfall.tui.widgets.field import TextField
from evenfall.tui.widgets.notice_line import NoticeLine


@pytest.fixture
def app(tmp_path):
    return EvenfallApp(root=tmp_path / "runs")


def key(name):
    char = name if len(name) == 1 else {"slash": "/", "space": " "}.get(name)
    return events.Key(name if name.isalnum() or len(name) > 1 else _character_to_key(name), char)


def send(app, *things):
    """Hand the app keys (by name), or other events, all at once."""
    for thing in things:
        event = key(thing) if isinstance(thing, str) else thing
        event.set_sender(app)
        app._driver.send_message(event)


async def handled(app):
    """Wait until every key has had its effect."""
    await asyncio.sleep(0.05)
    while app._keys._task is not None:
        await asyncio.sleep(0.005)


def said(app):
    return "\n".join(one.text for one in app.notices.current())


def field(app):
    return app.screen.query_one("#model-find", TextField)


def test_letters_behind_a_slash_go_into_the_field(drive, app):
    async def scenario(pilot):
        send(app, "slash", *"qwen", "escape", "slash", *"x3?")
        await handled(app)
        assert field(app).value == "x3?" and app.current_mode == "model"

    drive(app, scenario)
    assert app.return_value is None


@pytest.mark.parametrize(
    ("keys", "commands", "top"),
    [
        (["x", "c", "s"], [cmd.SaveNow()], "TrainScreen"),
        (["x", "s"], [cmd.Stop(save=True)], "TrainScreen"),
        (["x", "down", "enter", "e"], [cmd.Stop(save=False), cmd.EvaluateNow()], "TrainScreen"),
        (["question_mark", "escape", "space"], [cmd.Pause()], "TrainScreen"),
        (["l", *["backspace"] * 20, *"1e-5", "enter", "enter"], [cmd.SetLearningRate(1e-5, "scale")], "TrainScreen"),
        (["q", "c", "question_mark", "escape", "q"], [], "QuitModal"),
        (["6", "3", "x", "escape", "1", "slash", "x"], [], "ModelScreen"),
    ],
)
def test_a_dialog_that_opens_or_closes_gets_its_keys_and_no_others(
    drive, train_app, session, script, keys, commands, top
):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        send(train_app, *keys)
        await handled(train_app)
        assert session.commands == commands
        assert type(train_app.screen).__name__ == top

    drive(train_app, scenario)


def test_a_screen_that_is_made_gets_the_keys_behind_its_own(drive, app):
    async def scenario(pilot):
        send(app, "2", "slash", *"rows 1.jsonl", "1", "f2", "a", "down")
        await handled(app)
        assert app.desk.draft.data.path == "rows 1.jsonl1", "committed when its screen was left"
        assert app.current_mode == "model" and app.screen.has_class("-advanced")

    drive(app, scenario)


def test_a_paste_keeps_its_place_among_the_keys(drive, app):
    async def scenario(pilot):
        send(app, "slash", "a", events.Paste("qwen"), "b", events.AppBlur(), events.AppFocus(), "c")
        await handled(app)
        assert field(app).value == "aqwenbc"

    drive(app, scenario)


@pytest.mark.parametrize(("mode", "word"), [("model", "/ opens one"), ("train", "no field is open")])
def test_a_paste_without_a_field_is_only_spoken_of(drive, tmp_path, mode, word):
    app = EvenfallApp(root=tmp_path / "runs", first=mode)

    async def scenario(pilot):
        def state():
            return app.screen, app.focused, [field.value for field in app.screen.query(Input)]

        before = state()
        send(app, events.Paste("q123\rx"))
        await handled(app)
        assert word in said(app) and app.current_mode == mode
        assert state() == before

    drive(app, scenario)


def test_a_long_text_is_typed_quickly_and_whole(drive, app):
    async def scenario(pilot):
        text = "".join("abcdefghij"[n % 10] for n in range(200))
        send(app, "slash")
        await handled(app)
        start = time.perf_counter()
        send(app, *text)
        await until(pilot, lambda: len(field(app).value) == 200, 10)
        took = time.perf_counter() - start
        assert field(app).value == text and took < 2, f"{took:.2f} s"

    drive(app, scenario)


def test_a_handler_that_is_stuck_does_not_hold_the_keys_for_ever(drive, app, monkeypatch):
    monkeypatch.setattr(typed_keys, "PATIENCE_SECONDS", 0.3)

    async def scenario(pilot):
        free = asyncio.Event()
        field(app).call_later(free.wait)
        start = time.monotonic()
        send(app, "f5", "f4")
        while app.current_mode != "train" and time.monotonic() - start < 10:
            await asyncio.sleep(0.02)
        took = time.monotonic() - start
        free.set()
        assert app.current_mode == "train" and took >= 0.3

    drive(app, scenario)


def test_what_is_busy_is_told_from_what_is_at_rest(drive, app):
    async def scenario(pilot):
        await until(pilot, lambda: not any(map(typed_keys._busy, app._registry)), 10)
        widget, free = field(app), asyncio.Event()
        widget.call_later(free.wait)
        waits = typed_keys._busy(widget)
        await asyncio.sleep(0.1)
        works = typed_keys._busy(widget)
        free.set()
        assert waits and works
        await until(pilot, lambda: not typed_keys._busy(widget), 10)
        assert app._keys._task is None, "nothing runs where no key is on its way"

    drive(app, scenario)


# Below 80x24


async def shrink(pilot):
    await pilot.resize_terminal(60, 20)
    await pilot.pause()


async def enlarge(pilot):
    await pilot.resize_terminal(80, 24)
    await pilot.pause()
    await pilot.pause()


def test_below_80x24_no_key_acts_and_a_field_stays_as_it_was(drive, see, app):
    async def scenario(pilot):
        send(app, "slash", *"ab")
        await handled(app)
        await shrink(pilot)
        assert "needs 80x24" in see(app) and "press q to quit" in see(app)
        send(app, *"cx3", "f4", "enter", "tab", "ctrl+c", events.Paste("zz"))
        await handled(app)
        await enlarge(pilot)
        send(app, "d")
        await handled(app)
        assert field(app).value == "abd" and app.current_mode == "model"
        assert not app.desk.refused.why_no_start(), "it was not committed"

    drive(app, scenario)


@pytest.mark.parametrize("key", ["x", "question_mark", "q", "l"])
def test_below_80x24_a_dialog_is_covered_inert_and_comes_back_whole(drive, see, train_app, session, script, key):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press(key)
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        dialog, focused, before = train_app.screen, train_app.focused, see(train_app)
        await shrink(pilot)
        shown = see(train_app)
        assert "q then asks what becomes of it" in shown and "Stop" not in shown and "Quit" not in shown
        send(train_app, "s", "w", "d", "c", "1", "enter", "escape", "q")
        await handled(train_app)
        assert train_app.screen is dialog and not session.commands
        await enlarge(pilot)
        assert train_app.focused is focused and see(train_app) == before

    drive(train_app, scenario, (80, 24))
    assert train_app.return_value is None


def test_below_80x24_q_quits_where_nothing_is_to_be_asked(drive, app):
    async def scenario(pilot):
        await shrink(pilot)
        send(app, "q")
        await pilot.pause()

    drive(app, scenario)
    assert app.return_value == "quit"


# Ctrl-C


@pytest.mark.parametrize("keys", [[], ["x"], ["q"], ["l"], ["question_mark"], ["i"]])
def test_ctrl_c_says_what_to_press_under_every_dialog(drive, see, train_app, session, script, keys):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press(*keys, "ctrl+c")
        await pilot.pause()
        way = "esc closes this, then q quits" if keys else "q quits"
        assert f"ctrl+c never ends a run; {way}" in see(train_app)

    drive(train_app, scenario, (80, 24))
    assert train_app.return_value is None


def test_ctrl_c_in_a_field_says_how_to_leave_it_or_copies(drive, see, app):
    async def scenario(pilot):
        send(app, "slash", *"ab", "ctrl+c")
        await handled(app)
        assert "esc leaves the field, then q quits" in see(app)
        app.clear_notifications()
        send(app, "shift+home", "ctrl+c")
        await handled(app)
        assert app.clipboard == "ab" and field(app).value == "ab"
        assert said(app) == "copied · ctrl+c never ends a run; esc leaves the field, then q quits"

    drive(app, scenario)


# Notices


@pytest.mark.parametrize("key", ["x", "q", "l", "i", "question_mark"])
def test_a_notice_covers_no_key_and_no_answer_of_a_dialog(drive, see, train_app, session, script, key):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press(key)
        await pilot.pause()
        for number in range(3):
            train_app.tell(f"something happened, number {number}, and it takes some words to say", "warning")
        await pilot.pause()
        assert "number 2" in see(train_app)
        boxes = [widget.region for widget in train_app.screen.query(".dialog")]
        lines = train_app.screen.query_one(NoticeLine).region
        assert boxes and not any(lines.overlaps(region) for region in boxes)

    drive(train_app, scenario, (80, 24))


def test_a_notice_is_told_once_where_a_dialog_opens_over_it(drive, see, app):
    async def scenario(pilot):
        app.tell("something happened")
        await pilot.press("?")
        await pilot.pause()
        assert see(app).count("something happened") == 1
        await pilot.press("escape")
        await pilot.pause()
        assert see(app).count("something happened") == 1

    drive(app, scenario)


def test_a_notice_has_lines_of_its_own_and_goes_with_its_screen(drive, see, app):
    async def scenario(pilot):
        keys = see(app).splitlines()[-1]
        app.tell("something happened")
        await pilot.pause()
        lines = see(app).splitlines()
        assert lines[-1] == keys and lines[-2].strip() == "· something happened"
        for widget in app.screen.query(Input):
            assert not widget.region.overlaps(app.screen.query_one(NoticeLine).region)
        await pilot.press("3")
        await pilot.pause()
        assert "something happened" not in see(app)
        await pilot.press("1")
        await pilot.pause()
        assert "something happened" not in see(app)

    drive(app, scenario, (80, 24))


# A run's news under a dialog


@pytest.mark.parametrize(("key", "dialog"), [("q", QuitModal), ("x", StopModal), ("l", LearningRateModal)])
def test_a_question_about_a_run_that_has_ended_closes_itself(drive, see, train_app, session, script, key, dialog):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press(key)
        await script.settle(pilot)
        assert isinstance(train_app.screen, dialog)
        session.tell(ev.StateChanged("finished"))
        session.done = True
        await script.settle(pilot)
        assert train_app.screen.NAME == "train"
        assert "the run has ended meanwhile" in see(train_app)

    drive(train_app, scenario)
    assert train_app.return_value is None


def test_the_screen_under_a_dialog_goes_on(drive, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        other = train_app.screen
        await pilot.press("1", "3", "question_mark")
        await pilot.pause()
        assert isinstance(train_app.screen, HelpModal)
        session.tell(*(script.step(n) for n in range(21, 31)))

        def behind():
            return "\n".join(strip.text for strip in other._compositor.render_strips())

        await until(pilot, lambda: "step 30/3100" in behind(), 10)
        running = [timer for timer in other._own_timers if timer._active.is_set()]
        assert running == other._own_timers
        model = train_app._screen_stacks["model"][0]
        assert model._own_timers and not any(timer._active.is_set() for timer in model._own_timers)

    drive(train_app, scenario)


# Arrows


def test_arrows_work_at_once_in_a_list_of_answers(drive, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        send(train_app, "x", "down", "down", "up")
        await handled(train_app)
        assert train_app.screen.query_one(OptionList).highlighted == 1
        send(train_app, "end")
        await handled(train_app)
        assert train_app.screen.query_one(OptionList).highlighted == 2
        send(train_app, "home", "enter")
        await handled(train_app)
        assert session.commands == [cmd.Stop(save=True)]

    drive(train_app, scenario)


def test_arrows_lead_from_the_models_to_the_recipes_and_back(drive, app):
    async def scenario(pilot):
        send(app, "end", "down", "down")
        await handled(app)
        recipes = app.screen.query_one("#recipes").query_one(OptionList)
        assert recipes.has_focus and recipes.highlighted == 1
        send(app, "up", "up")
        await handled(app)
        models = app.screen.query_one("#models").query_one(OptionList)
        assert models.has_focus and models.highlighted == models.option_count - 1

    drive(app, scenario)


def test_arrows_go_through_the_rows_of_the_settings(drive, app):
    async def scenario(pilot):
        def row():
            return [row.has_focus_within for row in app.screen.query("_Row")].index(True)

        send(app, "a")
        await handled(app)
        send(app, "down")  # from the field that narrows the rows
        await handled(app)
        first = row()
        send(app, *["down"] * 7, "up")
        await handled(app)
        assert row() == first + 6
        send(app, "pagedown", "pageup")
        await handled(app)
        assert row() == first + 6

    drive(app, scenario)


def test_arrows_go_between_the_controls_of_export(drive, tmp_path, script):
    run = script.make_run(tmp_path / "runs")
    run.adapter.mkdir(parents=True)
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    (run.adapter / "adapter_config.json").write_text("{}")
    app = EvenfallApp(root=tmp_path / "runs", first="export")

    async def scenario(pilot):
        await until(pilot, lambda: app.focused is not None, 20)
        assert app.focused and app.focused.id == "form-adapter"
        seen = []
        for name in ("down", "down", "up", "up", "up"):
            send(app, name)
            await handled(app)
            seen.append(app.focused and app.focused.id)
        assert seen == ["form-merged", "export-kept", "form-merged", "form-adapter", "export-kept"]

    drive(app, scenario)


def test_arrows_go_through_the_columns_dialog(drive, app):
    ways = [SimpleNamespace(format=name, reason="x", columns={}, overrides=[]) for name in ("alpaca", "text")]
    question: Any = SimpleNamespace(
        columns=["a", "b"], speakers=["bot"], candidates=ways, format="alpaca", row=SimpleNamespace(content=b"{}")
    )

    async def scenario(pilot):
        app.push_screen(ColumnsModal(question))
        await handled(app)
        await pilot.pause()
        rows = app.screen.query_one(OptionList)
        assert rows.has_focus
        send(app, "down")
        await handled(app)
        assert rows.has_focus and rows.highlighted == 1
        send(app, "down")
        await handled(app)
        assert app.focused.id == "columns-format"
        send(app, "down", "right", "up")
        await handled(app)
        assert app.focused.id == "columns-format"
        send(app, "up")
        await handled(app)
        assert rows.has_focus and rows.highlighted == 1
        send(app, "home", "up")
        await handled(app)
        assert app.focused.id == "columns-role-0"

    drive(app, scenario)


def test_arrows_and_digits_work_at_once_in_the_way_out_of_memory(drive, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        session.tell(script.OOM, ev.StateChanged("out-of-memory"))
        train_app.poll()
        send(train_app, "down", "down", "enter")
        await handled(train_app)
        assert session.commands == [cmd.ApplyRecovery("shorter")]

    drive(train_app, scenario)
