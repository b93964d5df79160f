"""The Data screen: what the check found, and what it asks where a format cannot be told."""

import json
from dataclasses import replace

import pytest
from data_screen import PREVIEW, REPORT, SIZES, data_app, data_asked, row, show_data, words  # noqa: F401 - fixtures
from fake_inspector import FIGURES, FINDINGS, FakeInspector, checked, inspected
from waiting import until

from evenfall.engine.data.inspector.preview import DataPreview
from evenfall.engine.data.report.findings import Finding, Place
from evenfall.tui.screens import data as screen_module
from evenfall.tui.widgets.field import Choice
from evenfall.tui.words.check import statistics_lines


@pytest.mark.parametrize("size", SIZES)
def test_what_the_check_found(app, asked, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_data(pilot)
        assert "✗ 1 red · ! 1 amber   c shows them" in see(app)
        assert "2 Data !" in see(app)
        await pilot.press("c")
        assert "do not learn to end the answer" in see(app)
        assert "rows 4, 1,200 and 1,429 more" in see(app)
        assert "a model that learns no end of turn goes on for ever" in see(app)
        assert "x  leave these rows out: data.drop=[end_untrained]" in see(app)
        assert "data.max_length=320 holds 95 % of the rows (9 longer)" in see(app)
        same_as_snapshot(app, "data-check")
        await pilot.press("j")
        assert "c shows them" in see(app)  # a key of the rows says where they are
        await pilot.press("c")
        assert "(1 of 4)" in see(app)

    drive(app, scenario, size)


def test_keys_that_settle_a_finding_change_the_run(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("x")
        assert "c shows it" in see(app)
        await pilot.press("c", "s")
        assert "does nothing for the finding" in see(app)
        await pilot.press("x")
        await until(pilot, lambda: app.screen._job is None)
        assert app.desk.draft.data.drop == ["end_untrained"]
        assert asked[-1].data.drop == ["end_untrained"]  # the data are read again, without them
        await pilot.press("v")
        await until(pilot, lambda: app.screen._job is None)
        assert app.desk.draft.data.keep == ["end_untrained"]
        await pilot.press("down", "x")
        await until(pilot, lambda: app.screen._job is None)
        assert app.desk.draft.data.over_long == "drop"
        await pilot.press("down", "l")
        await until(pilot, lambda: app.screen._job is None)
        assert app.desk.draft.data.max_length == 512
        await pilot.press("down", "down", "s")
        await until(pilot, lambda: app.screen._job is None)
        assert app.desk.draft.data.over_long == "cut"
        await pilot.press("l")  # this finding asks for no length: the recommended one
        await until(pilot, lambda: app.screen._job is None)
        assert app.desk.draft.data.max_length == 320

    drive(app, scenario)


def test_enter_goes_to_the_first_row_of_a_finding(app, asked, drive, see):
    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("c", "enter")
        await until(pilot, lambda: "row 4 " in see(app))
        assert "! cut at data.max_length" in see(app)

    drive(app, scenario)


def test_nothing_wrong_is_said_too(app, drive, see, monkeypatch):
    fine = DataPreview(report=REPORT, inspector=PREVIEW.inspector, check=checked(REPORT, FINDINGS[2:]))
    monkeypatch.setattr(screen_module, "load_preview", lambda config, job: fine)

    async def scenario(pilot):
        await show_data(pilot)
        assert "✓ nothing is wrong" in see(app)
        assert "2 Data ✓" in see(app)

    drive(app, scenario)


def test_what_a_row_shows_beside_others_is_told_of_it(app, drive, see, monkeypatch):
    twice = Finding(
        code="duplicate",
        level="amber",
        count=1,
        text="again",
        meaning="",
        places=(Place("chats.jsonl", 1),),
    )
    preview = replace(PREVIEW, check=checked(REPORT, (twice,)))
    monkeypatch.setattr(screen_module, "load_preview", lambda config, job: preview)

    async def scenario(pilot):
        await show_data(pilot)
        assert "! duplicate" in see(app)
        await pilot.press("j")
        assert "row 2 (" in see(app) and "! duplicate" not in see(app)

    drive(app, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_a_row_without_tokens_shows_what_stands_in_its_file(app, drive, see, monkeypatch, size):
    broken = inspected(2, [], '{"prompt": "cut', ("bad",), "chats.jsonl: line 2: is not JSON")
    rows = FakeInspector([row(1), broken])
    preview = replace(PREVIEW, inspector=rows)
    monkeypatch.setattr(screen_module, "load_preview", lambda config, job: preview)

    async def scenario(pilot):
        await show_data(pilot)
        await pilot.press("g", "2", "enter")
        assert "line 2: is not JSON" in see(app) and '{"prompt": "cut' in see(app)

    drive(app, scenario, size)


def test_rows_that_were_not_read_are_no_secret(app, drive, see, monkeypatch):
    report = replace(REPORT, sources=[replace(REPORT.sources[0], only_first=True)])
    preview = replace(PREVIEW, report=report)
    monkeypatch.setattr(screen_module, "load_preview", lambda config, job: preview)

    async def scenario(pilot):
        await show_data(pilot)
        assert "the first 12,431 read" in see(app) and "data.max_rows" in see(app)

    drive(app, scenario)


def test_no_length_is_recommended_without_the_models_context():
    lines = list(statistics_lines(replace(FIGURES, context=300), 256))
    assert lines[1].endswith("holds 95 % of the rows (9 longer), but the model's context is 300")


def test_how_long_a_run_takes_is_told_where_a_pace_is_known():
    lines = list(statistics_lines(FIGURES, 256))
    assert lines[-1] == "the run     77 steps, 12m34s at the last run's pace"
    lines = list(statistics_lines(replace(FIGURES, seconds=None), 320))
    assert lines[-1] == "the run     77 steps" and lines[1].endswith(": it is set")


# What cannot be told is asked


@pytest.mark.parametrize("size", SIZES)
def test_rows_that_fit_two_formats_are_asked_about(app, drive, see, same_as_snapshot, tmp_path, size):
    rows = '{"prompt": "1+1", "completion": "2", "instruction": "add", "output": "2"}\n' * 3
    (tmp_path / "rows.jsonl").write_text(rows)

    async def scenario(pilot):
        app.desk.update_draft(["data.path=rows.jsonl"])
        await pilot.press("f3")
        await until(pilot, lambda: "How are these rows to be read?" in see(app))
        assert '"instruction":"add"' in see(app)
        await pilot.press("escape")
        assert "m says how to read them" in see(app) and "data.format=" in see(app)
        await pilot.press("m")
        same_as_snapshot(app, "data-asked")
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.screen._preview is not None)
        assert app.desk.draft.data.format != "auto"
        assert "3 read" in see(app)

    drive(app, scenario, size)


def test_speakers_that_are_no_roles_get_them_by_hand(app, drive, see, tmp_path):
    turns = [{"from": name, "value": f"says {name}"} for name in ("Client", "Clerk", "Notice", "Client", "Clerk")]
    (tmp_path / "rows.jsonl").write_text((json.dumps({"conversations": turns}) + "\n") * 3)

    async def scenario(pilot):
        app.desk.update_draft(["data.path=rows.jsonl"])
        await pilot.press("f3")
        await until(pilot, lambda: "How are these rows to be read?" in see(app))
        assert all(name in see(app) for name in ("Client", "Clerk", "Notice"))
        modal = app.screen
        notice = modal.query_one("#columns-role-2", Choice)
        notice.focus()
        while notice.value != "system":
            await pilot.press("right")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: getattr(app.screen, "_preview", None) is not None)
        assert app.desk.draft.data.roles == {"Client": "user", "Clerk": "assistant", "Notice": "system"}

    drive(app, scenario)


def test_columns_are_mapped_by_hand(app, drive, see, tmp_path):
    rows = '{"frage": "1+1", "antwort": "2", "note": "easy"}\n' * 3
    (tmp_path / "rows.jsonl").write_text(rows)

    async def scenario(pilot):
        app.desk.update_draft(["data.path=rows.jsonl"])
        await pilot.press("f3")
        await until(pilot, lambda: "How are these rows to be read?" in see(app))
        modal = app.screen
        form = modal.query_one("#columns-format", Choice)
        form.focus()
        while form.value != "prompt_completion":
            await pilot.press("right")
        for _, choice in modal._fields():
            while choice.value:
                choice.focus()
                await pilot.press("left")
        await pilot.press("ctrl+s")
        assert "prompt_completion needs a column for prompt, completion" in see(app)
        for choice, times in zip([choice for _, choice in modal._fields()], (1, 2), strict=False):
            choice.focus()
            await pilot.press(*["right"] * times)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: getattr(app.screen, "_preview", None) is not None)
        assert app.desk.draft.data.format == "prompt_completion"
        assert app.desk.draft.data.columns == {"prompt": "frage", "completion": "antwort"}
        row = app.screen._preview.inspector.look(app.screen._preview.inspector.places[0])
        assert "1+1" in "".join(token.text for token in row.tokens)
        assert row.trained > 0

    drive(app, scenario)
