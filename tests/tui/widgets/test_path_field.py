"""Paths are completed as a shell does, from real folders, and without holding up the screen."""

import asyncio
import os
import threading
import time

import pytest
from textual.app import App

from evenfall.tui.widgets import path_field
from evenfall.tui.widgets.field import TextField
from evenfall.tui.widgets.path_field import SHOWN, PathField, complete


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("models/llama-a", "models/llama-b", "models/.cache", "home/data", "empty", "Größe 1"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("models/notes.txt", "rows.jsonl", "rows-2.jsonl", "home/data/x.csv"):
        (tmp_path / name).write_text("")
    (tmp_path / "linked").symlink_to("models")
    (tmp_path / "nowhere").symlink_to("gone")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "to", "count"),
    [
        ("mo", "models/", 1),
        ("models/", "models/", 3),
        ("models/l", "models/llama-", 2),
        ("models/llama-a", "models/llama-a/", 1),
        ("models/.", "models/.cache/", 1),
        ("models/no", "models/notes.txt", 1),
        ("rows", "rows", 2),
        ("rows.", "rows.jsonl", 1),
        ("./ro", "./rows", 2),
        ("lin", "linked/", 1),
        ("linked/llama-b", "linked/llama-b/", 1),
        ("now", "nowhere", 1),
        ("empty/", "empty/", 0),
        ("gone/x", "gone/x", 0),
        ("rows.jsonl/x", "rows.jsonl/x", 0),
        ("Gr", "Größe 1/", 1),
        ("x\0y/", "x\0y/", 0),
        ("", "", 9 - 1),
    ],
)
def test_a_path_is_completed_as_far_as_it_is_sure(folder, text, to, count):
    found = complete(text)
    assert (found.text, found.count) == (to, count)


def test_home_is_written_out_and_whole_paths_stay_whole(folder):
    home = str(folder / "home")
    assert complete("~/da").text == f"{home}/data/" == complete(f"{home}/da").text
    assert complete("~").text == f"{home}/data/"


def test_a_model_is_a_folder(folder):
    assert complete("models/", folders_only=True).names == ("llama-a/", "llama-b/")
    assert complete("rows", folders_only=True).count == 0
    assert complete("linked", folders_only=True).text == "linked/"


def test_names_that_no_field_can_hold_are_left_out(folder):
    for name in ("a\x1b[2J", "a\nb", "a\u202eb"):
        (folder / "empty" / name).write_text("")
    with open(os.fsencode(folder / "empty") + b"/a\xff", "w"):
        pass
    assert complete("empty/a").count == 0
    (folder / "empty" / "abc").write_text("")
    assert complete("empty/a").text == "empty/abc"


def test_a_large_folder_tells_its_first_names_and_how_many_there_are(folder):
    for number in range(3000):
        (folder / "empty" / f"file-{number:05d}").touch()
    found = complete("empty/f")
    assert found.count == 3000 and found.text == "empty/file-0" and found.whole
    assert found.names == tuple(f"file-{number:05d}" for number in range(SHOWN))
    cut = complete("empty/f", seconds=-1)
    assert cut.text == "empty/f" and not cut.whole, "what was not read to its end is not sure"


class Fields(App):
    def __init__(self):
        super().__init__()
        self.offers, self.entered = [], []

    def compose(self):
        yield PathField(id="path")
        yield TextField(id="after")

    def on_path_field_offered(self, event):
        self.offers.append(event.completion)

    def on_text_field_committed(self, event):
        if event.entered:
            self.entered.append(event.text)


def in_app(scenario):
    async def main():
        app = Fields()
        async with app.run_test() as pilot:
            await pilot.pause()
            await scenario(pilot, app.query_one("#path", PathField))

    asyncio.run(main())


def test_tab_completes_then_shows_what_there_is_then_leaves(folder):
    async def scenario(pilot, field):
        await pilot.press(*"mo", "tab")
        assert (field.value, field.has_focus, field.cursor_position) == ("models/", True, 7)
        await pilot.press("l", "tab")
        assert field.value == "models/llama-" and field.has_focus
        assert pilot.app.offers[-1].names == ("llama-a/", "llama-b/")
        await pilot.press("tab", "tab")
        assert field.has_focus, "a name that is only begun is not given"
        await pilot.press("b", "tab")
        assert field.value == "models/llama-b/" and field.has_focus
        await pilot.press("tab")  # there is nothing in it
        assert not field.has_focus and pilot.app.query_one("#after").has_focus
        field.focus()
        field.value = "models/"
        await pilot.press("tab")
        assert pilot.app.offers[-1].count == 3 and field.has_focus
        await pilot.press("tab")
        assert not field.has_focus and field.value == "models/"

    in_app(scenario)


@pytest.mark.parametrize("text", ["", "Qwen", "rows.jsonl"])
def test_tab_leaves_where_there_is_nothing_to_complete(folder, text):
    async def scenario(pilot, field):
        field.value = text
        await pilot.press("tab")
        assert not field.has_focus and field.value == text

    in_app(scenario)


def test_the_right_arrow_completes_at_the_end_and_never_leaves(folder):
    async def scenario(pilot, field):
        await pilot.press(*"mo", "left", "right")
        assert field.value == "mo"
        await pilot.press("right", *["right"] * 3)
        assert field.value == "models/" and field.has_focus and len(pilot.app.offers) == 1

    in_app(scenario)


def test_keys_that_follow_wait_for_what_is_completed(folder):
    """Enter right behind tab takes the whole path."""

    async def scenario(pilot, field):
        await pilot.press(*"mo", "tab", "enter")
        await pilot.pause()
        assert pilot.app.entered == ["models/"]

    in_app(scenario)


def test_a_folder_that_does_not_answer_holds_up_nothing_else(folder, monkeypatch):
    goes_on = threading.Event()
    monkeypatch.setattr(path_field, "complete", lambda text, **options: goes_on.wait(60))
    monkeypatch.setattr(path_field, "SECONDS", 0.2)

    async def scenario(pilot, field):
        ticks = []
        pilot.app.set_interval(0.02, lambda: ticks.append(time.monotonic()))
        await pilot.press("x", "tab")
        assert len(ticks) > 3 and pilot.app.offers == [None] and field.has_focus
        await pilot.press("tab")
        assert not field.has_focus

    in_app(scenario)
    goes_on.set()
