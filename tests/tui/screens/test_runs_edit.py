"""The Runs screen: searched and sorted over all runs; runs deleted, renamed and annotated."""

import contextlib
import os
import subprocess
import sys
import threading

import pytest
from runs_table import look, shown
from textual.widgets import DataTable, Static
from waiting import until

from evenfall.engine.run import summary as run_list
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.edit import set_note
from evenfall.engine.run.events import Failed, StateChanged
from evenfall.tui.app import EvenfallApp
from evenfall.tui.commands.main import main
from evenfall.tui.screens.dialogs import run_changes
from evenfall.tui.screens.dialogs.run_edit import DeleteFailedModal, DeleteRunModal, LineModal
from evenfall.tui.widgets.field import TextField
from evenfall.tui.words.run_rows import Order

SIZES = [(120, 36), (80, 24)]


@pytest.fixture
def app(tmp_path):
    return EvenfallApp(root=tmp_path / "runs", first="runs")


def names(app):
    return [row.run.name for row in shown(app).rows]


def cursor_on(app):
    row = shown(app)._chosen()
    return row and row.run.name


async def type_text(pilot, text):
    await pilot.press(*["space" if char == " " else "minus" if char == "-" else char for char in text])


async def changed(pilot):
    """Until the change and the scan after it are done."""

    def done():
        screen = shown(pilot.app)
        screen.look()
        return not screen._changes.doing and screen._job is None

    await until(pilot, done)


@contextlib.contextmanager
def holder(run):
    """Another process that trains the run."""
    code = (
        "import sys; from pathlib import Path; from evenfall.engine.run.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield
        process.communicate()


# Deleting


@pytest.mark.parametrize("size", SIZES)
def test_the_question_names_what_goes_and_keeps_by_default(
    app, drive, see, tmp_path, four_runs, script, same_as_snapshot, size
):
    good = four_runs["0409-good"]
    (good.exports / "merged").mkdir(parents=True)
    set_note(good, "the one for the talk")

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("ctrl+end", "X")
        await pilot.pause()
        assert isinstance(app.screen, DeleteRunModal)
        text = see(app)
        for part in (
            "Frees 1.2 GB",
            "1 checkpoint (step 3000)",
            "the final adapter",
            "exports: merged",
            "for the talk",
        ):
            assert part in text
        same_as_snapshot(app, "runs-delete", hide=str(tmp_path))
        await pilot.press("enter")
        await changed(pilot)
        assert "0409-good" in names(app) and good.adapter.is_dir()

    drive(app, scenario, size)


@pytest.mark.parametrize("key", ["X", "delete"])
def test_a_run_is_deleted_and_nothing_refers_to_it_any_more(app, drive, see, tmp_path, four_runs, script, key):
    async def scenario(pilot):
        await look(pilot, script.settle)
        app.desk.view_run(four_runs["0410-lr3e4"])
        app.desk.chosen_run = four_runs["0410-lr3e4"]
        app.show("runs")
        await pilot.press("down", "down", key)
        await pilot.pause()
        await pilot.press("D")
        await changed(pilot)
        assert names(app) == ["0412-live", "0411-dropped", "0409-good"] and cursor_on(app) == "0409-good"
        assert "0410-lr3e4 is deleted, 1.2 GB freed" in see(app)
        assert app.desk.source is None and app.desk.chosen_run == four_runs["0412-live"]
        assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["0409-good", "0411-dropped", "0412-live"]

    drive(app, scenario)


def test_the_own_run_that_has_ended_can_be_deleted(app, drive, tmp_path, script):
    session = script.FakeSession(script.make_run(tmp_path / "runs", "mine"))

    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(3))
        session.done = True
        await pilot.press("6")
        await look(pilot, script.settle)
        await pilot.press("X")
        await pilot.pause()
        await pilot.press("D")
        await changed(pilot)
        assert app.desk.live is None and app.desk.source is None and not app.desk.busy
        await pilot.press("3")
        await script.settle(pilot)

    drive(app, scenario)


@pytest.mark.parametrize("key", ["X", "n"])
def test_a_live_run_is_neither_deleted_nor_renamed_and_says_why(app, drive, see, four_runs, script, key):
    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press(key)
        await script.settle(pilot)
        assert "this run is going: enter opens it, then x stops it" in see(app)
        assert shown(app) and four_runs["0412-live"].config_file.exists()

    drive(app, scenario)


def test_a_run_that_another_process_took_up_meanwhile_stays(app, drive, see, four_runs, script):
    """The screen does not know of it yet."""
    run = four_runs["0411-dropped"]

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("down", "X")
        await pilot.pause()
        with holder(run):
            await pilot.press("D")
            await changed(pilot)
            assert "is being trained by" in see(app) and "0411-dropped" in names(app)
        assert run.config().name is None and run.checkpoints() == [600]

    drive(app, scenario)


def test_a_run_that_is_a_link_loses_the_link(app, drive, see, tmp_path, script):
    target = script.make_run(tmp_path, "elsewhere")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(target.path)

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("X")
        await pilot.pause()
        assert "It is a link to" in see(app) and "Frees" not in see(app)
        await pilot.press("D")
        await changed(pilot)
        assert names(app) == [] and "freed" not in see(app) and target.config_file.exists()

    drive(app, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_failed_starts_are_listed_and_deleted_together(
    app, drive, see, tmp_path, four_runs, write_run, script, same_as_snapshot, size
):
    for number in range(10):
        write_run(f"fail-{number}", [*script.set_up(), Failed("no such file", "", None), StateChanged("failed")], 60)
    script.make_run(tmp_path / "runs", "fail-unbegun")

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("F")
        await until(pilot, lambda: isinstance(app.screen, DeleteFailedModal))
        assert "Delete 11 failed starts?" in see(app) and "and 3 more" in see(app)
        if size == SIZES[0]:
            same_as_snapshot(app, "runs-failed", hide=str(tmp_path))
        (tmp_path / "runs" / "fail-3" / "adapter").mkdir()  # while the question stands
        await pilot.press("D")
        await changed(pilot)
        assert sorted(names(app)) == sorted([*four_runs, "fail-3"])
        assert "10 failed starts deleted" in see(app) and "fail-3: has begun meanwhile" in see(app)
        await pilot.press("F")
        await script.settle(pilot)
        assert "none is a failed start" in see(app)

    drive(app, scenario, size)


def test_a_deletion_that_takes_long_is_told_and_holds_up_no_other_key(app, drive, see, four_runs, script, monkeypatch):
    goes_on = threading.Event()
    monkeypatch.setattr(run_changes, "delete_run", lambda run: goes_on.wait(60))

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("ctrl+end", "X")
        await pilot.pause()
        await pilot.press("D")
        shown(app)._show()
        await pilot.pause()
        assert "0409-good is being deleted…" in see(app)
        await pilot.press("up", "X")
        await script.settle(pilot)
        assert "0409-good is being deleted: wait for it" in see(app) and cursor_on(app) == "0410-lr3e4"
        goes_on.set()
        await changed(pilot)

    drive(app, scenario)


# Names and notes


@pytest.mark.parametrize("size", SIZES)
def test_a_name_is_checked_as_it_is_typed_and_everything_follows(
    app, drive, see, tmp_path, four_runs, script, same_as_snapshot, size
):
    async def scenario(pilot):
        await look(pilot, script.settle)
        app.desk.view_run(four_runs["0411-dropped"])
        app.desk.chosen_run = four_runs["0411-dropped"]
        app.show("runs")
        await pilot.press("down", "n")
        await pilot.pause()
        field = app.screen.query_one("TextField")
        for name, why in (("a/b", "1 to 64 letters"), ("", "1 to 64 letters"), ("0409-good", "another run has")):
            field.value = name
            await pilot.press("enter")
            assert isinstance(app.screen, LineModal) and why in str(app.screen.query_one("#line-note", Static).content)
        same_as_snapshot(app, "runs-rename", hide=str(tmp_path))
        field.value = "warm"
        await pilot.press("enter")
        await changed(pilot)
        assert names(app)[1] == "warm" and not four_runs["0411-dropped"].path.exists()
        run = app.desk.chosen_run
        assert run.name == "warm" and run.config().name == "warm" and app.desk.source.run == run
        await pilot.press("3")
        await until(pilot, lambda: not app.desk.source.loading)
        await script.settle(pilot)
        assert "700/3100" in see(app)

    drive(app, scenario, size)


def test_the_own_run_that_has_ended_is_shown_under_its_new_name(app, drive, see, tmp_path, script):
    session = script.FakeSession(script.make_run(tmp_path / "runs", "mine"))

    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(3))
        session.done = True
        await pilot.press("6")
        await look(pilot, script.settle)
        await pilot.press("n")
        await pilot.pause()
        app.screen.query_one("TextField").value = "yours"
        await pilot.press("enter")
        await changed(pilot)
        assert app.desk.live.run == app.desk.session.run == app.desk.chosen_run
        assert app.desk.source is app.desk.live and app.desk.source.name == "yours"

    drive(app, scenario)


@pytest.mark.parametrize("size", [*SIZES, (160, 30)])
def test_a_note_is_shown_wherever_the_run_is(
    app, drive, see, tmp_path, four_runs, script, same_as_snapshot, capsys, size
):
    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("o")  # of a live run
        await pilot.pause()
        app.screen.query_one("TextField").value = "x" * 201
        await pilot.press("enter")
        assert "at most 200 characters: 1 too many" in see(app)
        app.screen.query_one("TextField").value = "rate too high"
        await pilot.press("enter")
        await changed(pilot)
        assert "note  rate too high" in see(app)
        same_as_snapshot(app, "runs-note", hide=str(tmp_path))
        await pilot.press("down")
        await pilot.pause()
        assert "note  rate too high" not in see(app)
        await pilot.press("up", "enter")
        await until(pilot, lambda: app.desk.source and not app.desk.source.loading)
        await pilot.press("i")
        await pilot.pause()
        assert "rate too high" in see(app)

    drive(app, scenario, size)
    main(["runs", "--runs", str(tmp_path / "runs")])
    assert "    note: rate too high\n" in capsys.readouterr().out


def test_a_hostile_note_reaches_no_terminal(app, drive, tmp_path, script, capsys):
    run = script.make_run(tmp_path / "runs", "r")

    async def scenario(pilot):
        for text in script.hostile:
            run.note_file.write_bytes(text.encode("utf-8", "surrogatepass"))
            shown(app).scan_again()
            await changed(pilot)
            for key in ("o", "escape", "X", "escape"):
                await pilot.press(key)
                await pilot.pause()
                assert script.control_free(app)
            main(["runs", "--runs", str(tmp_path / "runs")])
            assert not any(ord(char) < 0x20 and char != "\n" for char in capsys.readouterr().out)

    drive(app, scenario, (160, 30))


# Search and order


@pytest.mark.parametrize("size", SIZES)
def test_a_search_takes_all_words_of_name_model_state_and_note(
    app, drive, see, tmp_path, four_runs, script, same_as_snapshot, size
):
    set_note(four_runs["0410-lr3e4"], "Rate too HIGH")

    async def scenario(pilot):
        await look(pilot, script.settle)
        for text, found in (
            ("lr3", ["0410-lr3e4"]),
            ("llama", ["0412-live", "0411-dropped", "0410-lr3e4", "0409-good"]),
            ("finished", ["0409-good"]),
            ("high LLAMA failed", ["0410-lr3e4"]),
            ("high finished", []),
        ):
            await pilot.press("slash")
            shown(app).query_one("#runs-find", TextField).value = text
            await pilot.pause()
            assert names(app) == found
        assert "No run matches high finished" in see(app)
        await pilot.press("escape")
        await pilot.pause()
        assert len(names(app)) == 4 and not shown(app).query_one("#runs-search").display
        await pilot.press("slash")
        await type_text(pilot, "X drop")  # letters, no verbs
        assert names(app) == []
        await pilot.press(*["backspace"] * 6)
        await type_text(pilot, "drop")
        await pilot.press("enter")
        await pilot.pause()
        assert names(app) == ["0411-dropped"] and "1 of 4 runs" in see(app)
        same_as_snapshot(app, "runs-search", hide=str(tmp_path))
        await pilot.press("o")  # the table has the keys again
        await pilot.pause()
        assert isinstance(app.screen, LineModal)

    drive(app, scenario, size)


@pytest.mark.parametrize("size", SIZES)
def test_the_order_is_turned_by_key_and_by_the_heading(
    app, drive, see, tmp_path, four_runs, script, same_as_snapshot, size
):
    by_name = sorted(four_runs)

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("S")
        assert names(app) == by_name and "when ▲" in see(app)  # the oldest first
        await pilot.press("s")
        assert names(app) == by_name and "name ▲" in see(app)
        await pilot.press("S")
        assert names(app) == by_name[::-1] and "name ▼" in see(app)
        await pilot.press("s", "s")
        assert names(app) == ["0409-good", "0412-live", "0411-dropped", "0410-lr3e4"] and "loss ▲" in see(app)
        await pilot.press("s")
        assert "eval ▲" in see(app) and names(app)[-1] == "0410-lr3e4"  # has none
        await pilot.press("S")
        assert names(app)[-1] == "0410-lr3e4"
        same_as_snapshot(app, "runs-sorted", hide=str(tmp_path))
        await pilot.press("3", "6")  # kept while the app runs
        await look(pilot, script.settle)
        assert "eval ▼" in see(app)
        await pilot.click(DataTable, offset=(3, 0))
        await pilot.pause()
        assert "name ▲" in see(app)
        await pilot.press("s", "s", "s", "s", "s", "s")
        assert "when ▼" in see(app)

    drive(app, scenario, size)


def test_search_and_order_reach_over_all_runs(app, drive, see, tmp_path, write_run, script, monkeypatch):
    for number in range(260):
        script.make_run(tmp_path / "runs", f"run-{number:03d}")
    write_run("best", [*script.set_up(), script.step(1, loss=0.1)], 9 * 86_400)
    os.utime(tmp_path / "runs" / "best" / "events.jsonl", (1, 1))
    read = []
    real = run_list.summarise
    goes_on = threading.Event()

    def summarise(run):
        read.append(run)
        assert len(read) <= 50 or goes_on.wait(60)
        return real(run)

    monkeypatch.setattr(run_list, "summarise", summarise)

    async def scenario(pilot):
        await look(pilot, script.settle)
        assert len(read) == 50 and "best" not in names(app)
        await pilot.press("slash")
        await type_text(pilot, "best")
        assert "0 of the 50 read so far, of 261 runs" in see(app)
        goes_on.set()
        await until(pilot, lambda: (shown(app).look(), names(app))[1])
        assert names(app) == ["best"] and len(read) == 261
        await pilot.press("escape", "s", "s", "s")
        await pilot.pause()
        assert names(app)[0] == "best" and len(names(app)) == 50
        app.screen.query_one(DataTable).move_cursor(row=49)
        await until(pilot, lambda: len(names(app)) == 100)
        assert len(read) == 261, "none is read again"

    drive(app, scenario)


def test_an_order_keeps_its_ties_and_what_has_no_figure_at_the_end():
    assert Order().by("steps") == Order() and Order().by("when") == Order("when", True)
    columns = [Order()]
    while columns[-1].next() != Order():
        columns.append(columns[-1].next())
    assert [order.column for order in columns] == ["when", "name", "state", "loss", "eval", "trained", "size"]


def test_a_run_that_was_opened_by_another_path_is_gone_from_every_screen(app, drive, four_runs, script, monkeypatch):
    run = four_runs["0411-dropped"]
    monkeypatch.chdir(run.path.parents[1])
    from_here = RunDirectory(run.path.relative_to(run.path.parents[1]))

    async def scenario(pilot):
        await look(pilot, script.settle)
        app.desk.look_at(from_here)
        app.desk.chosen_run = from_here
        await pilot.press("down", "X", "D")
        await changed(pilot)
        assert app.desk.source is None and app.desk.chosen_run and not app.desk.chosen_run.is_same(run)

    drive(app, scenario)
