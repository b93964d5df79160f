"""The app: moving between screens, quitting, detaching, starting and taking up runs."""

import asyncio
import os
import signal
import threading

import pytest
from waiting import until

from evenfall.engine.config.run_config import ConfigError
from evenfall.engine.machine.jobs import Job
from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.engine.session import session as session_module
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens.dialogs.common import QuitModal
from evenfall.tui.screens.dialogs.out_of_memory import OutOfMemoryModal
from evenfall.tui.screens.train import TrainScreen
from evenfall.tui.state.desk import Desk


@pytest.fixture
def fake_sessions(monkeypatch, script):
    """Every session that the app makes, none of which trains."""
    made = []

    def make(run, *, resume=False, attended=False):
        session = script.FakeSession(run)
        session.resume, session.attended = resume, attended
        made.append(session)
        return session

    monkeypatch.setattr(session_module, "Session", make)
    return made


@pytest.mark.parametrize("key", ["{}", "f{}"])
def test_each_screen_has_a_digit_and_a_function_key(drive, see, tmp_path, monkeypatch, key):
    waiting = Job(lambda job: threading.Event().wait(30))
    monkeypatch.setattr(Desk, "start_job", lambda *_: waiting)  # screens read nothing
    app = EvenfallApp(root=tmp_path)

    async def scenario(pilot):
        for number, name in enumerate(("model", "data", "train", "export", "chat", "runs"), 1):
            await pilot.press(key.format(number + (key != "{}")))
            await pilot.pause()
            assert app.current_mode == name
            assert f"{number} {name.capitalize()}" in see(app)

    drive(app, scenario)


@pytest.mark.parametrize("name", ["data", "train", "export", "chat", "runs"])
def test_a_key_that_comes_before_the_first_paint_does_no_harm(see, tmp_path, monkeypatch, name):
    waiting = Job(lambda job: threading.Event().wait(30))
    monkeypatch.setattr(Desk, "start_job", lambda *_: waiting)  # screens read nothing

    async def main() -> None:
        app = EvenfallApp(root=tmp_path)
        async with app.run_test(size=(120, 36)) as pilot:
            app.show(name)
            for _ in range(20):
                await pilot.pause(0.05)
            assert app.painted and app.current_mode == name
            assert f"{name.capitalize()}" in see(app)

    asyncio.run(main())


def test_a_click_on_the_strip_goes_to_the_screen(drive, train_app):
    async def scenario(pilot):
        await pilot.click("#nav", offset=(56, 0))
        await pilot.pause()
        assert train_app.current_mode == "runs"

    drive(train_app, scenario)


def test_q_quits_at_once_without_a_run(drive, train_app):
    async def scenario(pilot):
        await pilot.press("q")

    drive(train_app, scenario)
    assert train_app.return_value == "quit"


def test_q_during_a_run_asks_and_the_default_detaches(drive, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(10))
        await pilot.press("q")
        await script.settle(pilot)
        assert isinstance(train_app.screen, QuitModal)
        await pilot.press("enter")
        await pilot.pause()

    drive(train_app, scenario)
    assert train_app.return_value == "detach"
    assert session.commands == []
    assert not session.attended


def test_save_and_stop_leaves_only_once_the_run_has_ended(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(10))
        await pilot.press("q", "s")
        await script.settle(pilot)
        assert session.commands == [cmd.Stop(save=True)]
        assert train_app.return_value is None
        assert "saving, then leaving" in see(train_app)
        session.tell(ev.StateChanged("finished"))
        session.done = True
        await script.settle(pilot)

    drive(train_app, scenario)
    assert train_app.return_value == "quit"


@pytest.mark.parametrize("key", ["c", "escape"])
def test_quitting_can_be_cancelled(drive, train_app, session, script, key):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(10))
        await pilot.press("q", key)
        await script.settle(pilot)
        assert isinstance(train_app.screen, TrainScreen)
        assert train_app.return_value is None and session.commands == []

    drive(train_app, scenario)


def test_detach_works_from_a_signal_handler(drive, train_app, session, script):
    before = signal.signal(signal.SIGHUP, lambda *_: train_app.detach())
    try:

        async def scenario(pilot):
            await script.begin(pilot, session, *script.training(10))
            os.kill(os.getpid(), signal.SIGHUP)
            while not train_app.detached:
                await asyncio.sleep(0.02)

        drive(train_app, scenario)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert train_app.return_value == "detach"
    assert train_app.detached and not session.attended


def test_a_verb_that_cannot_be_done_says_why(drive, see, train_app):
    async def scenario(pilot):
        await pilot.press("D")
        await pilot.pause()
        assert "there is no run to leave behind" in see(train_app)
        await pilot.press("s")
        await pilot.pause()
        assert "there is no run yet: r starts one" in see(train_app)

    drive(train_app, scenario)


def test_ctrl_c_ends_nothing(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(10))
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert "q quits" in see(train_app)
        assert train_app.return_value is None

    drive(train_app, scenario)


def test_a_small_window_says_what_it_needs_and_leaves_the_run_alone(
    drive, train_app, session, script, same_as_snapshot
):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(10))
        same_as_snapshot(train_app, "too-small")
        await pilot.resize_terminal(80, 24)
        await script.settle(pilot)
        assert train_app.screen.query_one("#body").display
        assert session.commands == []

    drive(train_app, scenario, size=(60, 20))


def test_r_starts_the_draft(drive, train_app, fake_sessions):
    async def scenario(pilot):
        train_app.desk.update_draft(["train.max_steps=7", "name=first"])
        await pilot.press("r")
        await pilot.pause()
        (session,) = fake_sessions
        assert session.run.config().train.max_steps == 7
        assert session.attended and not session.resume
        assert train_app.desk.chosen_run == session.run
        await pilot.press("r")
        await pilot.pause()
        assert len(fake_sessions) == 1, "one run at a time"

    drive(train_app, scenario)


def test_a_given_session_is_shown_at_once(drive, see, tmp_path, session, script):
    app = EvenfallApp(root=tmp_path / "runs", train=session, leave_when_done=True)

    async def scenario(pilot):
        assert app.current_mode == "train" and app.desk.session is session
        session.tell(*script.training(10))
        await script.settle(pilot)
        assert "step 10/3100" in see(app)
        session.done = True
        await script.settle(pilot)

    drive(app, scenario)
    assert app.return_value == "quit"


def test_a_taken_name_is_told_and_nothing_starts(drive, see, train_app, run_directory, fake_sessions):
    async def scenario(pilot):
        train_app.desk.update_draft([f"name={run_directory.name}"])
        await pilot.press("r")
        await pilot.pause()
        assert not fake_sessions
        assert "this run exists" in see(train_app)

    drive(train_app, scenario)


def test_a_draft_that_does_not_fit_is_refused_and_changes_nothing(drive, train_app):
    async def scenario(pilot):
        before = train_app.desk.draft
        with pytest.raises(ConfigError, match="learning_rate"):
            train_app.desk.update_draft(["train.learning_rate=fast"])
        assert train_app.desk.draft is before

    drive(train_app, scenario)


def test_resume_opens_a_session_that_resumes(drive, train_app, run_directory, fake_sessions):
    async def scenario(pilot):
        assert train_app.desk.resume_run(run_directory)
        await until(pilot, lambda: fake_sessions and train_app.desk.session)
        assert fake_sessions[0].resume and train_app.desk.session is fake_sessions[0]

    drive(train_app, scenario)


def test_another_screen_hears_that_the_run_has_ended(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(10))
        await pilot.press("6")
        session.tell(ev.Failed("no more", "", None), ev.StateChanged("failed"))
        session.done = True
        await script.settle(pilot)
        assert "0412-llama8b: failed, press 3 to see it" in see(train_app)

    drive(train_app, scenario)


def test_out_of_memory_is_asked_about_once_an_open_dialog_is_closed(drive, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press("question_mark")
        await pilot.pause()
        session.tell(script.OOM, ev.StateChanged("out-of-memory"))
        await script.settle(pilot)
        assert not isinstance(train_app.screen, OutOfMemoryModal)
        await pilot.press("escape")
        await script.settle(pilot)
        assert isinstance(train_app.screen, OutOfMemoryModal)

    drive(train_app, scenario)


@pytest.mark.parametrize("key", ["1", "6"])
def test_out_of_memory_is_asked_about_on_any_screen(drive, train_app, session, script, key):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press(key)
        await script.settle(pilot)
        session.tell(script.OOM, ev.StateChanged("out-of-memory"))
        await script.settle(pilot)
        assert isinstance(train_app.screen, OutOfMemoryModal)
        await pilot.press("1")
        await pilot.pause()
        assert session.commands == [cmd.ApplyRecovery("recompute")]

    drive(train_app, scenario)
