"""A run that another process trains: watched and steered as an own one is."""

import contextlib
import os

import pytest
from served_run import Served
from waiting import until

from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.engine.run.log import EventLog
from evenfall.engine.session.attach import Attachment
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens.dialogs.out_of_memory import OutOfMemoryModal
from evenfall.tui.state.sources import FollowedRun

FINISHED = ev.Finished(
    reason="stopped", step=30, seconds=60.0, tokens=9000, adapter="adapter", first_loss=2.0, last_loss=1.0
)


def test_a_run_that_cannot_be_reached_can_be_watched(drive, see, tmp_path, script, monkeypatch):
    run = script.make_run(tmp_path / "runs")
    log = EventLog(run.events_file)
    for event in script.training(30):
        log.append(event)
    app = EvenfallApp(root=tmp_path / "runs", watch=run.path)
    monkeypatch.setattr(FollowedRun, "LIVE_CHECK_SECONDS", -1.0)

    async def scenario(pilot):
        with run.lock():  # by a process that opened no socket
            await until(pilot, lambda: app.poll() or f"process {os.getpid()} has opened no socket" in see(app))
            await pilot.press("space")
            await pilot.pause()
            assert "Pause: process" in see(app)
            log.append(script.step(31))
            await script.settle(pilot)
            assert "step 31/3100" in see(app)

    drive(app, scenario)
    log.close()


@pytest.fixture
def watched(tmp_path, script, monkeypatch):
    """A run of another process that takes commands; and two viewers of it."""
    monkeypatch.setattr(FollowedRun, "LIVE_CHECK_SECONDS", -1.0)
    run = script.make_run(tmp_path / "runs")
    log = EventLog(run.events_file)
    for event in script.training(30):
        log.append(event)
    log.close()
    served = Served(run)
    yield served
    with contextlib.suppress(ValueError):
        served.end()


def test_a_run_of_another_process_is_steered_like_an_own_one(drive, see, tmp_path, watched):
    app = EvenfallApp(root=tmp_path / "runs", watch=watched.run.path)

    async def scenario(pilot):
        def attached():
            app.poll()
            return app.desk.source and not app.desk.source.loading and app.desk.source.read_only is None

        await until(pilot, attached)
        with watched.gate:
            await pilot.press("space")
            await pilot.pause()
            assert "○ pause …" in see(app)
        await until(pilot, lambda: app.poll() or not (app.desk.source and app.desk.source.pending))
        await pilot.press("s")
        await until(pilot, lambda: app.poll() or "save refused: the disk is full" in see(app))
        await pilot.press("l", *"\b" * 0, "ctrl+u", *"1e-4", "enter")
        await until(pilot, lambda: len(watched.heard) == 3)
        await pilot.press("x", "s")
        await until(pilot, lambda: len(watched.heard) == 4)
        assert watched.heard == [cmd.Pause(), cmd.SaveNow(), cmd.SetLearningRate(1e-4, "scale"), cmd.Stop(save=True)]

    drive(app, scenario)


def test_out_of_memory_is_asked_of_every_viewer_and_closes_once_one_has_answered(drive, see, tmp_path, script, watched):
    app = EvenfallApp(root=tmp_path / "runs", watch=watched.run.path)
    other = Attachment(watched.run.path)

    async def scenario(pilot):
        await until(pilot, lambda: app.poll() or (app.desk.source and app.desk.source.read_only is None))
        watched.control.emit(script.OOM)
        watched.control.set_state("out-of-memory")
        await until(pilot, lambda: app.poll() or isinstance(app.screen, OutOfMemoryModal))
        assert other.submit(cmd.ApplyRecovery("halve")) == ""
        await until(pilot, lambda: cmd.ApplyRecovery("halve") in watched.heard)
        watched.control.set_state("training")
        await until(pilot, lambda: app.poll() or not isinstance(app.screen, OutOfMemoryModal))
        watched.control.emit(script.OOM)
        watched.control.set_state("out-of-memory")
        await until(pilot, lambda: app.poll() or isinstance(app.screen, OutOfMemoryModal))
        await pilot.press("1")
        await until(pilot, lambda: len(watched.heard) == 2)
        assert isinstance(watched.heard[1], cmd.ApplyRecovery)

    drive(app, scenario)
    other.close()


def test_leaving_a_run_of_another_process_leaves_it_alone(drive, tmp_path, watched):
    app = EvenfallApp(root=tmp_path / "runs", watch=watched.run.path)

    async def scenario(pilot):
        await until(pilot, lambda: app.poll() or (app.desk.source and app.desk.source.read_only is None))
        await pilot.press("q")
        await pilot.pause()

    drive(app, scenario)
    assert app.return_value == "quit" and watched.heard == []


def test_the_end_of_a_run_of_another_process_is_told(drive, see, tmp_path, script, watched):
    app = EvenfallApp(root=tmp_path / "runs", watch=watched.run.path)

    async def scenario(pilot):
        await until(pilot, lambda: app.poll() or (app.desk.source and app.desk.source.read_only is None))
        await pilot.press("2")
        watched.control.emit(FINISHED)
        watched.control.set_state("finished")
        watched.end()
        await until(pilot, lambda: app.poll() or "stopped, press 3 to see it" in see(app))

    drive(app, scenario)
