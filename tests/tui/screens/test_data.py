"""The Data screen: a preview that follows the draft, and rows shown as the model will see them."""

import asyncio
import threading
from dataclasses import replace

import pytest
from data_screen import PREVIEW, REPORT, SIZES, data_app, data_asked, row, show_data, words  # noqa: F401 - fixtures
from fake_inspector import FINDINGS, FakeInspector, checked
from textual.content import Content
from waiting import until

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.inspector.preview import DataPreview
from evenfall.engine.data.report.findings import Fix
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import data as screen_module
from evenfall.tui.screens.panes.token_view import Stretch, _line, _wrapped
from evenfall.tui.widgets.field import Choice
from evenfall.tui.widgets.histogram import length_plot, length_title
from evenfall.tui.widgets.plot import decimate, draw_plot


@pytest.mark.parametrize("size", SIZES)
def test_loaded(app, asked, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_data(pilot)
        assert "12,431 read" in see(app) and "28 empty answer" in see(app)
        assert "✗ 1 red" in see(app) and "2 Data !" in see(app)
        same_as_snapshot(app, "data-loaded")

    drive(app, scenario, size)
    assert asked[0].data.path == "demo"


@pytest.mark.parametrize("size", SIZES)
def test_reading_shows_how_far_it_is_and_can_be_cancelled(app, drive, see, same_as_snapshot, monkeypatch, size):
    go_on = threading.Event()

    def slow(config, job):
        job.report("reading rows: 5,000", 0.42)
        go_on.wait(60)
        job.report("reading rows: 6,000")
        return PREVIEW

    monkeypatch.setattr(screen_module, "load_preview", slow)

    async def scenario(pilot):
        await pilot.press("f3")
        await until(pilot, lambda: "reading rows: 5,000" in see(app))
        same_as_snapshot(app, "data-reading")
        await pilot.press("j")
        assert "still being" in see(app)  # a key that cannot work says why
        await pilot.press("escape")
        go_on.set()
        await until(pilot, lambda: "cancelled" in see(app))
        assert "12,431" not in see(app)

    drive(app, scenario, size)


@pytest.mark.parametrize("size", SIZES)
def test_an_error_stands_in_place_of_the_rows(app, drive, see, same_as_snapshot, monkeypatch, size):
    def fails(config, job):
        raise ValueError(
            "train.jsonl: line 17: `messages` is text ('hello'), expected a list of objects with "
            "role and content; give a list, or set data.format"
        )

    monkeypatch.setattr(screen_module, "load_preview", fails)

    async def scenario(pilot):
        await show_data(pilot)
        assert "line 17" in see(app) and "2 Data !" in see(app)
        same_as_snapshot(app, "data-error")
        monkeypatch.setattr(screen_module, "load_preview", lambda config, job: PREVIEW)
        await pilot.press("u")
        await until(pilot, lambda: "12,431" in see(app))
        assert "line 17" not in see(app)

    drive(app, scenario, size)


def test_rows_are_walked(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        assert "row 1 (1 of 4)" in see(app) and "▌T  2 and 3" in see(app)
        await pilot.press("j", "j")
        assert "row 4 (3 of 4)" in see(app) and "Row 4: name" in see(app)
        await pilot.press("j", "j")
        assert "this is the last row" in see(app) and "row 1,200 (" in see(app)
        await pilot.press("k", "k", "k")
        assert "row 1 (" in see(app)
        await pilot.press("k")
        assert "this is the first row" in see(app)

    drive(app, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_a_cut_row_is_found_by_its_problem(app, asked, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("p")
        assert "! cut at data.max_length" in see(app)
        assert "✂   and so are 5 and 7" in see(app)
        same_as_snapshot(app, "data-cut")

    drive(app, scenario, size)


@pytest.mark.parametrize("size", SIZES)
def test_ids_stand_before_their_tokens(app, asked, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("t")
        assert "‹⟦256⟧<|user|>›" in see(app)
        same_as_snapshot(app, "data-ids")
        await pilot.press("t")
        assert "⟦" not in see(app)

    drive(app, scenario, size)


def test_a_row_is_gone_to_by_its_number(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("g", *"1,200", "enter")
        assert "row 1,200 (" in see(app)
        await pilot.press("g", *"3", "enter")
        assert "row 3 · left out: empty answer" in see(app)
        await pilot.press("k")
        assert "row 2 (" in see(app)
        await pilot.press("g", *"3", "enter", "j")
        assert "row 4 (" in see(app)
        await pilot.press("g", *"77", "enter")
        assert "there is no row 77" in see(app) and "row 4 (" in see(app)
        await pilot.press("g", *"x", "enter")
        assert "is no row number" in see(app)
        await pilot.press("g", "escape", "j")
        assert "row 1,200 (" in see(app)

    drive(app, scenario)
    assert len(asked) == 1  # the field is no setting


def test_text_is_found_forward_and_back(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("n")
        assert "nothing to look for yet" in see(app)
        await pilot.press("f", *"ROW", "enter")
        assert "row 2 (" in see(app)
        await pilot.press("n", "n")
        assert "row 4 (" in see(app)
        await pilot.press("N", "N", "N")
        assert "row 1 (" in see(app)
        await pilot.press("f", *"[/nowhere]", "enter")
        assert "no row holds '[/nowhere]'" in see(app) and "row 1 (" in see(app)

    drive(app, scenario)


def test_raw_takes_the_place_of_the_tokens_or_stands_beside_them(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        assert '"prompt"' not in see(app) and "▌T  2" in see(app)
        await pilot.press("r")
        assert '"prompt": "Row 1"' in see(app) and "▌T  2" not in see(app)
        await pilot.press("j")
        assert '"prompt": "Row 2"' in see(app)
        await pilot.press("r")
        assert "▌T  2" in see(app)
        await pilot.resize_terminal(120, 36)
        await pilot.pause()
        assert '"prompt": "Row 2"' in see(app) and "▌T  2" in see(app)

    drive(app, scenario, (80, 24))


def test_a_long_look_leaves_the_screen_alive_and_can_be_stopped(app, drive, see, monkeypatch):
    class Slow(FakeInspector):
        def look(self, place, tell=None):
            while place.number in (2, 4) and not over.wait(0.01):
                tell(5000)
            return super().look(place)

    over = threading.Event()
    slow = DataPreview(
        report=REPORT,
        inspector=Slow([row(1), row(2), row(4), row(5)]),  # type: ignore[arg-type]
        check=checked(REPORT),
    )
    monkeypatch.setattr(screen_module, "load_preview", lambda config, job: slow)

    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("j")
        await until(pilot, lambda: "5,000 rows read" in see(app))
        await pilot.press("escape")
        assert "row 1 (" in see(app)
        await pilot.press("j", "j", "j")  # each overtakes the one before
        await until(pilot, lambda: "row 5 (" in see(app))

    drive(app, scenario)
    over.set()


def test_a_changed_field_reads_anew_and_an_unchanged_one_does_not(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("slash", "ctrl+u", *"my: rows.jsonl", "enter")
        await until(pilot, lambda: len(asked) == 2 and app.screen._job is None)
        app.screen.query_one("#data-format").focus()
        await pilot.press("right")
        await until(pilot, lambda: len(asked) == 3 and app.screen._job is None)
        await pilot.press("f2")
        await pilot.pause()
        await pilot.press("f3")
        await pilot.pause()

    drive(app, scenario)
    assert len(asked) == 3
    assert app.desk.draft.data.path == asked[1].data.path == "my: rows.jsonl"
    assert asked[2].data.format == "alpaca"


def test_another_model_means_another_tokenizer_so_it_reads_anew(app, asked, drive):
    async def scenario(pilot):
        await show_data(pilot)
        app.show("model")
        await pilot.pause()
        app.desk.update_draft(["model.name_or_path=other/model"])
        await show_data(pilot)

    drive(app, scenario)
    assert [config.model.name_or_path for config in asked] == ["demo", "other/model"]


def test_no_run_starts_from_data_of_which_a_field_was_refused(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        field = app.screen.query_one("#data-held")
        field.focus()
        field.value = "10"
        await pilot.press("enter")
        await pilot.press("f4")
        await pilot.pause()
        assert "held out holds a value that does not fit" in see(app)
        assert "data.eval_fraction: got 10, takes number from 0 to 0.5" in see(app)
        assert app.screen.why_not("run_draft")
        await pilot.press("2")
        await pilot.pause()
        assert field.value == "10" and "data.eval_fraction: got 10" in see(app)
        field.focus()
        await pilot.press("escape")
        await pilot.pause()
        assert field.value == "0" and "got 10" not in see(app)
        assert not app.desk.refused.of("data")

    drive(app, scenario)


def test_a_value_that_does_not_fit_is_refused_beside_its_field(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        field = app.screen.query_one("#data-length")
        field.focus()
        field.value = "long"
        await pilot.press("enter")
        assert "data.max_length: got 'long'" in see(app)
        field.value = "512"
        await pilot.press("enter")
        await until(pilot, lambda: len(asked) == 2 and app.screen._job is None)
        assert "got 'long'" not in see(app)

    drive(app, scenario)
    assert app.desk.draft.data.max_length == 512


def test_only_the_last_of_several_changes_is_shown(app, drive, see, monkeypatch):
    """A reading that was overtaken must not come back over the newer one."""
    first = threading.Event()

    def preview(config, job):
        if config.data.path == "demo":
            first.wait(60)
            return PREVIEW
        raise ValueError("the newer one")

    monkeypatch.setattr(screen_module, "load_preview", preview)

    async def scenario(pilot):
        await pilot.press("f3")
        await pilot.pause()
        app.desk.update_draft(["data.path=other.jsonl"])
        await until(pilot, lambda: "the newer one" in see(app))
        first.set()
        await asyncio.sleep(0.4)
        assert "the newer one" in see(app) and "12,431" not in see(app)

    drive(app, scenario)


def test_rows_above_the_limit_are_bars_of_their_own():
    lengths = sorted([100] * 60 + [200] * 30 + [300] * 10)
    plot = length_plot(lengths, 256, "#00ff00", "#ff0000")
    assert plot is not None and length_plot([], 256, "#00ff00", "#ff0000") is None
    fit, over = plot.curves
    assert (len(fit.xs), len(over.xs)) == (90, 10) and over.color == "#ff0000"
    bars = [bar for curve in plot.curves for run in decimate(curve, plot.x_range, 60) for bar in run]
    assert [round(share) for _, share in bars] == [60, 30, 10]
    drawn = draw_plot(plot, 70, 8, "#888888")
    assert drawn is not None
    assert {color for line in drawn for _, color in line} >= {"#00ff00", "#ff0000"}


def test_a_long_tail_leaves_the_others_their_room():
    lengths = [*range(100, 300), 90_000]
    plot = length_plot(lengths, 256, "#00ff00", "#ff0000")
    assert plot is not None and 290 < plot.x_range[1] < 500
    figures = {"p50": 200, "p95": 290, "longest": 90_000}
    title = length_title(lengths, 256, figures)
    assert "95 % ≤ 290" in title and "longest 90,000" in title and "22 % above 256" in title
    assert "above" not in length_title(lengths[:100], 256, figures)


@pytest.mark.parametrize("size", SIZES)
def test_lengths_take_the_place_of_the_rows_and_give_it_back(app, asked, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("h")
        await pilot.pause()
        assert "% of rows by tokens" in see(app) and "learnt   ·" not in see(app)
        same_as_snapshot(app, "data-lengths")
        await pilot.press("j")
        assert "h shows them" in see(app)
        await pilot.press("h")
        await pilot.pause()
        assert "▌T learnt" in see(app)

    drive(app, scenario, size)


@pytest.mark.parametrize("width", [6, 20, 71])
def test_lines_fit_and_never_mix_fates_or_documents(width):
    runs = [
        Stretch("<s>", "read", True), Stretch("a prompt of some words\nand a second line ", "read", False),
        Stretch("日本語" * 20, "trained", False), Stretch("x" * 50 + " end", "trained", False),
        Stretch("\n", "read", False), Stretch("another", "read", False, 1), Stretch(" tail", "cut", False, 1),
    ]  # fmt: skip
    lines = _wrapped(runs, width)
    for line in lines:
        assert len({(run.fate, run.document) for run in line}) == 1
        assert _line(line).cell_length <= width + 6
    shown = "".join(run.text for line in lines for run in line)
    assert shown == "‹<s>›" + "".join(run.text for run in runs[1:]).replace("\n", "⏎")


def test_fates_differ_without_colour():
    lines = [_line([Stretch("x", fate, False)]) for fate in ("trained", "read", "cut")]
    assert all(isinstance(line, Content) for line in lines)
    assert len({line.plain for line in lines}) == 3


def test_several_data_sets_are_told_and_give_way_to_a_path(asked, drive, see, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mix = RunConfig().with_overrides(["data.datasets=[{path: a.json}, {path: b.json, weight: 2}]"])
    app = EvenfallApp(mix)

    async def scenario(pilot):
        await show_data(pilot)
        assert "2 data sets of run.yaml" in see(app)
        await pilot.press("slash", *"c.json", "enter")
        await until(pilot, lambda: len(asked) > 1 and pilot.app.screen._job is None)
        assert [source.path for source in asked[-1].data.sources] == ["c.json"]
        assert "2 data sets" not in see(app)

    drive(app, scenario)


# The check


def test_a_key_too_many_takes_nothing_back(app, drive, see, monkeypatch):
    """Once all is settled, the key that settled it would undo what it did."""
    settled = replace(FINDINGS[0], level="green", fixes=(Fix("drop", "data.drop=[]", "take in"),))
    preview = replace(PREVIEW, check=checked(REPORT, (settled, *FINDINGS[2:])))
    monkeypatch.setattr(screen_module, "load_preview", lambda config, job: preview)

    async def scenario(pilot):
        await show_data(pilot)
        app.desk.update_draft(["data.drop=[end_untrained]"])
        await until(pilot, lambda: app.screen._job is None)
        await pilot.press("c", "x")
        assert app.desk.draft.data.drop == ["end_untrained"]
        await pilot.press("down", "up", "x")  # somebody went there
        assert app.desk.draft.data.drop == []

    drive(app, scenario)


def test_what_was_said_of_one_file_is_not_said_of_the_next(app, asked, drive, see):
    said = ["format=alpaca", "columns={output: b}", "drop=[bad]", "keep=[cut]", "max_length=512"]

    async def scenario(pilot):
        await show_data(pilot)
        app.desk.update_draft([f"data.{one}" for one in said])
        await until(pilot, lambda: app.screen._job is None)
        await pilot.press("slash", *["backspace"] * 4, *"b.csv", "enter")
        await until(pilot, lambda: app.screen._job is None)
        assert "data.format, data.columns, data.drop" in see(app)
        data = app.desk.draft.data
        assert (data.path, data.format, data.columns, data.max_length) == ("b.csv", "auto", {}, 512)
        assert not data.drop and not data.keep
        app.desk.update_draft(["data.columns={output: b}"])
        app.screen.query_one("#data-format", Choice).action_turn(1)
        await pilot.pause()
        assert app.desk.draft.data.columns == {}

    drive(app, scenario)


def test_escape_leaves_a_field_as_it_was(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("slash", *"zzz", "escape")
        assert app.desk.draft.data.path == "demo" and "zzz" not in see(app)
        app.screen.query_one("#data-length").focus()
        await pilot.press("a", "tab")
        assert "whole number" in see(app)
        await pilot.press("f2", "f3")
        await pilot.pause()
        assert "whole number" in see(app)  # it is still there to be corrected
        app.screen.query_one("#data-length").focus()
        await pilot.press("escape")
        await until(pilot, lambda: "check" in see(app) and "whole number" not in see(app))
        assert app.screen.query_one("#data-length").value == "256"

    drive(app, scenario)


def test_a_field_explains_itself_while_it_has_the_focus(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        app.screen.query_one("#data-held").focus()
        await pilot.pause()
        assert "data.eval_fraction: share of the rows held out for evaluation" in see(app)
        assert "takes number from 0 to 0.5" in see(app) and "12,431 read" not in see(app)
        await pilot.press("escape")
        await pilot.pause()
        assert "data.eval_fraction" not in see(app) and "12,431 read" in see(app)

    drive(app, scenario)
