"""The Runs screen, and the summaries it shows."""

from dataclasses import replace

import pytest
from runs_table import FINISHED, look, shown
from textual.widgets import DataTable
from waiting import until

from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.engine.run import summary as run_list
from evenfall.engine.run.log import EventLog
from evenfall.engine.run.summary import RunScanner, read_outline, summarise
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import runs as runs_screen
from evenfall.tui.state.desk import Desk
from evenfall.tui.state.sources import FollowedRun

SIZES = [(120, 36), (80, 24)]


@pytest.mark.parametrize("size", SIZES)
def test_the_table_shows_each_run_and_its_state(drive, tmp_path, four_runs, script, same_as_snapshot, size):
    app = EvenfallApp(root=tmp_path / "runs", first="runs")

    async def scenario(pilot):
        await look(pilot, script.settle)
        same_as_snapshot(app, "runs", hide=str(tmp_path))

    drive(app, scenario, size)


@pytest.mark.parametrize("size", SIZES)
def test_without_runs_it_says_how_to_get_one(drive, see, tmp_path, script, size):
    app = EvenfallApp(root=tmp_path / "none", first="runs")

    async def scenario(pilot):
        for _ in range(100):
            shown(app).look()
            await pilot.pause(0.02)
            if "No runs in" in see(app):
                break
        assert "1 pick a model" in see(app)
        await pilot.press("r")
        await script.settle(pilot)
        assert "there is no run here yet" in see(app)

    drive(app, scenario, size)


def test_enter_opens_a_run_of_another_process(drive, see, tmp_path, four_runs, script):
    app = EvenfallApp(root=tmp_path / "runs", first="runs")

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("enter")
        for _ in range(100):
            await script.settle(pilot)
            if app.desk.source and not app.desk.source.loading:
                break
        assert app.current_mode == "train"
        assert isinstance(app.desk.source, FollowedRun) and app.desk.chosen_run == four_runs["0412-live"]
        await until(pilot, lambda: app.poll() or "has opened no socket" in see(app))
        assert "step 1243/3100" in see(app)

    drive(app, scenario)


def test_the_own_live_run_opens_with_its_verbs(drive, tmp_path, four_runs, script):
    app = EvenfallApp(root=tmp_path / "runs", first="runs")
    session = script.FakeSession(four_runs["0412-live"])

    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        app.desk.view_run(four_runs["0409-good"])
        await pilot.press("6")
        await look(pilot, script.settle)
        await pilot.press("enter")
        await script.settle(pilot)
        await pilot.press("space")
        await pilot.pause()
        assert session.commands == [cmd.Pause()]

    drive(app, scenario)


@pytest.mark.parametrize(
    ("row", "reason"),
    [(0, "this run is going"), (1, None), (2, "has no checkpoint"), (3, "this run is complete")],
)
def test_only_a_run_that_can_go_on_is_resumed(drive, see, tmp_path, four_runs, script, monkeypatch, row, reason):
    taken_up = []
    monkeypatch.setattr(Desk, "resume_run", lambda self, run: taken_up.append(run.name))
    app = EvenfallApp(root=tmp_path / "runs", first="runs")

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press(*["down"] * row, "r")
        await script.settle(pilot)
        assert taken_up == ([] if reason else ["0411-dropped"])
        assert reason is None or reason in see(app)

    drive(app, scenario)


def test_clone_sets_the_next_run_up_without_its_name(drive, tmp_path, four_runs, script):
    app = EvenfallApp(root=tmp_path / "runs", first="runs")

    async def scenario(pilot):
        await look(pilot, script.settle)
        await pilot.press("c")
        await pilot.pause()
        assert app.desk.draft.train.num_train_epochs == 3 and app.desk.draft.name is None

    drive(app, scenario)


@pytest.mark.parametrize(("key", "screen"), [("e", "export"), ("t", "chat")])
def test_a_run_is_taken_along_to_export_and_chat(drive, tmp_path, four_runs, script, monkeypatch, key, screen):
    shown = []
    monkeypatch.setattr(EvenfallApp, "show", lambda self, name: shown.append(name))
    app = EvenfallApp(root=tmp_path / "runs", first="runs")

    async def scenario(pilot):
        app.switch_mode("runs")
        await script.settle(pilot)
        await look(pilot, script.settle)
        await pilot.press("down", "down", "down", key)
        await pilot.pause()
        assert shown[-1] == screen and app.desk.chosen_run == four_runs["0409-good"]

    drive(app, scenario)


def test_many_runs_are_read_a_page_at_a_time(drive, tmp_path, script, monkeypatch):
    for number in range(60):
        script.make_run(tmp_path / "runs", f"run-{number:03d}")
    read = []
    real = run_list.summarise
    monkeypatch.setattr(run_list, "summarise", lambda run: (read.append(run), real(run))[1])
    app = EvenfallApp(root=tmp_path / "runs", first="runs")

    async def scenario(pilot):
        await look(pilot, script.settle)
        assert len(shown(app).rows) == runs_screen.PAGE == len(read)
        await pilot.press("end", "ctrl+end")
        app.screen.query_one(DataTable).move_cursor(row=runs_screen.PAGE - 1)
        for _ in range(100):
            await pilot.pause(0.02)
            shown(app).look()
            if len(shown(app).rows) == 60:
                break
        assert len(shown(app).rows) == 60
        assert len(read) == 60, "runs that have not changed are not read again"

    drive(app, scenario)


def told(steps):
    """Steps as a run tells them, with the time of all before them."""
    return [replace(step, seconds_so_far=2.0 * step.step) for step in steps]


def figures(row):
    return row.state, row.step, row.loss, row.evaluation, row.trained_seconds


def test_a_summary_of_a_long_run_builds_its_last_steps_alone(write_run, script):
    story = script.training(3100)
    steps = iter(told(event for event in story if isinstance(event, ev.Step)))
    story = [next(steps) if isinstance(event, ev.Step) else event for event in story]
    run = write_run("long", [*story, FINISHED, ev.StateChanged("finished")])
    outline = read_outline(run.events_file, at_most=50)
    assert sum(isinstance(event, ev.Step) for event in outline) == 50
    whole = run.progress()
    assert whole.evaluation is not None
    row = summarise(run)
    assert figures(row) == (
        "finished", 3100, whole.loss, whole.evaluation.loss, whole.trained_seconds
    )  # fmt: skip
    assert row.trained_seconds == 6200.0


def test_a_summary_counts_every_step_of_a_log_whose_steps_do_not_tell_the_time(write_run, script):
    run = write_run("old", script.training(300))
    assert summarise(run).trained_seconds == run.progress().trained_seconds


@pytest.mark.parametrize("done_again", [0, 2, 30])
def test_a_summary_leaves_out_steps_that_were_taken_back(write_run, script, done_again):
    steps = told(map(script.step, range(1, 301)))
    resumed = ev.RunStarted(run="r", pid=2, device="CPU", versions={}, resumed_from=120)
    story = [*script.set_up(), *steps, resumed, *steps[120 : 120 + done_again]]
    run = write_run("resumed", story)
    whole = run.progress()
    row = summarise(run)
    assert figures(row)[1:3] == (120 + done_again, whole.loss)
    assert row.trained_seconds == whole.trained_seconds == 2.0 * (120 + done_again)


def test_a_run_that_ended_out_of_memory_goes_on_from_its_checkpoint(write_run, script):
    end = [
        script.OOM,
        ev.StateChanged("out-of-memory"),
        ev.Failed("out of memory, and nobody to ask", "", 600),
        ev.StateChanged("out-of-memory"),
    ]
    run = write_run("oom", [*script.training(700), *end])
    assert summarise(run).state == "out-of-memory" and not summarise(run).resumable
    run.checkpoint(600).mkdir(parents=True)
    (run.checkpoint(600) / "state.json").write_text("{}")
    assert summarise(run).resumable
    with run.lock():
        assert not summarise(run).resumable, "another process has it"


def test_a_torn_or_foreign_file_still_gives_a_row(tmp_path, script):
    run = script.make_run(tmp_path / "runs", "torn")
    run.events_file.write_bytes(b'{"type": "Step", "st\n\xff\xfe\n[1]\n{"type":"RunStarted"}\n')
    run.config_file.write_text("model: 7")
    assert summarise(run).state == "new"


def test_changes_on_disk_are_seen_by_the_next_scan(write_run, script, tmp_path):
    run = write_run("0412-x", script.training(20))
    scanner = RunScanner(tmp_path / "runs")
    (first,), count = scanner.scan(10, lambda text: None)
    assert (first.step, count) == (20, 1)
    log = EventLog(run.events_file)
    log.append(script.step(21))
    log.close()
    (second,), _ = scanner.scan(10, lambda text: None)
    assert second.step == 21
