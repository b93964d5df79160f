"""The registry of verbs: what it lists works, and what works is listed."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from textual.widgets import Static

from evenfall.tui.app import EvenfallApp
from evenfall.tui.keys import SCREENS, VERBS, verbs_of
from evenfall.tui.screens.dialogs.help import HelpModal
from evenfall.tui.widgets.keybar import shown_key

TUI = Path(inspect.getfile(EvenfallApp)).parent
LYING_KEYS = {
    "ctrl+enter", "ctrl+h", "ctrl+i", "ctrl+m", "ctrl+z", "ctrl+a", "ctrl+b",
    *(f"alt+{digit}" for digit in range(10)),
}  # fmt: skip
"""Keys that do not arrive, or mean something else, over SSH and in tmux."""


def screen_class(name):
    return getattr(import_module(f"evenfall.tui.screens.{name}"), f"{name.capitalize()}Screen")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: f"{verb.screen}-{verb.id}")
def test_every_verb_has_a_handler_where_it_is_used(verb):
    owner = EvenfallApp if verb.screen == "app" else screen_class(verb.screen)
    name = verb.action.partition("(")[0]
    assert callable(getattr(owner, f"action_{name}", None)), f"{owner.__name__}.action_{name}"


@pytest.mark.parametrize("name", SCREENS)
def test_a_key_means_one_thing_on_a_screen(name):
    own = [verb for verb in verbs_of(name) if verb.screen == name]
    keys = [key for verb in own for key in verb.key.split(",")]
    assert len(keys) == len(set(keys))
    everywhere = {key for verb in verbs_of("") for key in verb.key.split(",")}
    assert set(keys) & everywhere <= {"escape"}


def test_verbs_have_one_id_and_only_keys_that_arrive():
    ids = [verb.id for verb in VERBS]
    assert len(ids) == len(set(ids))
    used = {key for verb in VERBS for key in verb.key.split(",")}
    assert not used & LYING_KEYS


@pytest.mark.parametrize("name", ["train", "runs"])
@pytest.mark.parametrize("key", ["question_mark", "f1"])
def test_help_lists_every_key_of_the_screen(drive, tmp_path, name, key):
    app = EvenfallApp(root=tmp_path, first=name)

    async def scenario(pilot):
        await pilot.press(key)
        await pilot.pause()
        assert isinstance(app.screen, HelpModal)
        text = str(app.screen.query_one(Static).content)
        for verb in verbs_of(name):
            assert verb.tooltip in text and shown_key(verb.key) in text
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(app.screen, HelpModal)

    drive(app, scenario)


@pytest.mark.parametrize("size", [(120, 36), (80, 24)])
def test_help_looks_as_it_should(drive, train_app, same_as_snapshot, size):
    async def scenario(pilot):
        await pilot.press("question_mark")
        await pilot.pause()
        same_as_snapshot(train_app, "help-train")

    drive(train_app, scenario, size)


def test_a_click_on_a_key_does_what_the_key_does(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        line = see(train_app).splitlines()[-1]
        await pilot.click("#keys", offset=(line.index("Save"), 0))
        await pilot.pause()
        assert [type(command).__name__ for command in session.commands] == ["SaveNow"]
        await pilot.click("#keys", offset=(line.index("Help"), 0))
        await pilot.pause()
        assert isinstance(train_app.screen, HelpModal)

    drive(train_app, scenario)


@pytest.mark.parametrize("file", sorted(TUI.rglob("*.py")), ids=lambda file: file.name)
def test_no_code_goes_past_safe_text(file):
    """Markup is off everywhere, and Textual's own notify (which parses it) has one caller."""
    code = file.read_text(encoding="utf-8")
    for bypass in ("markup=True", "from_markup", "call_from_thread"):
        assert bypass not in code
    if file.name != "notices.py":
        assert ".notify(" not in code
    for widget in ("Static(", "Label(", "OptionList(", "Button("):
        for call in code.split(f"yield {widget}")[1:]:
            assert "markup=False" in call[: _end_of_call(call)], f"{widget} without markup=False"


def _end_of_call(text):
    depth = 1
    for position, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth == 0:
            return position
    return len(text)
