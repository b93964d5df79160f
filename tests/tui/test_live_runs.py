"""What is live is seen on the first screens, wherever it was started; a run beside it is asked about."""

from dataclasses import replace

import pytest
from served_run import Served
from waiting import until

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run.log import EventLog
from evenfall.engine.run.registry import remember_place
from evenfall.engine.session import session as session_module
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens.dialogs.beside import BesideModal
from evenfall.tui.state.sources import FollowedRun


@pytest.fixture
def elsewhere(tmp_path, script):
    """A live run on the CPU, at step 30, in another folder than the app's."""
    run = script.make_run(tmp_path / "there" / "runs")
    log = EventLog(run.events_file)
    for event in script.training(30):
        log.append(event)
    log.close()
    served = Served(run)
    served.socket.find_device("cpu")
    yield served
    if not served.over:
        served.end()


@pytest.fixture
def made():
    """Sessions that the app has begun."""
    return []


@pytest.fixture
def app(tmp_path, monkeypatch, script, made):
    """An app in a folder of its own, whose runs are sessions without an engine."""

    def make(run, *, resume=False, attended=False):
        made.append(script.FakeSession(run))
        return made[-1]

    monkeypatch.setattr(session_module, "Session", make)
    draft = parse_config({"train": {"device": "cpu"}, "output_dir": str(tmp_path / "runs")})
    return EvenfallApp(draft, root=tmp_path / "runs")


def test_the_first_screen_says_what_is_live_and_opens_it(drive, see, same_as_snapshot, app, made, elsewhere):
    async def scenario(pilot):
        await until(
            pilot, lambda: "live       ● 0412-llama8b  training 30/3100 · 61.2 of 80 GB  w opens it" in see(app)
        )
        same_as_snapshot(app, "model-live", hide="machine ")
        await pilot.press("w")
        await until(pilot, lambda: app.poll() or "step 30/3100" in see(app))
        assert isinstance(app.desk.source, FollowedRun) and app.desk.source.run.path == elsewhere.run.path
        await pilot.press("1")
        elsewhere.end()
        await until(pilot, lambda: "w opens it" not in see(app))

    drive(app, scenario)


def test_a_run_on_the_same_device_is_asked_about(drive, see, same_as_snapshot, app, made, elsewhere):
    async def scenario(pilot):
        await pilot.press("3", "r")
        await until(pilot, lambda: app.poll() or isinstance(app.screen, BesideModal))
        same_as_snapshot(app, "beside", hide="0412-llama8b (process")
        await pilot.press("c")
        assert not made and app.desk.source is None
        await pilot.press("r")
        await until(pilot, lambda: app.poll() or isinstance(app.screen, BesideModal))
        await pilot.press("b")
        await until(pilot, lambda: made)
        assert app.desk.busy

    drive(app, scenario)


def test_the_question_can_open_the_other_run(drive, see, app, made, elsewhere):
    async def scenario(pilot):
        await pilot.press("3", "r")
        await until(pilot, lambda: app.poll() or isinstance(app.screen, BesideModal))
        await pilot.press("enter")
        await until(pilot, lambda: app.poll() or "step 30/3100" in see(app))
        assert not made

    drive(app, scenario)


def test_the_question_closes_once_the_other_run_has_ended(drive, see, app, made, elsewhere):
    async def scenario(pilot):
        await pilot.press("3", "r")
        await until(pilot, lambda: app.poll() or isinstance(app.screen, BesideModal))
        elsewhere.end()
        await until(pilot, lambda: not isinstance(app.screen, BesideModal))
        assert "the other run has ended meanwhile" in see(app) and not made
        await pilot.press("r")
        await until(pilot, lambda: made)

    drive(app, scenario)


def test_runs_shows_live_ones_of_other_folders_and_leads_to_those(drive, see, app, elsewhere, script, tmp_path):
    script.make_run(tmp_path / "third" / "runs").path.rename(tmp_path / "third" / "runs" / "old")
    remember_place(tmp_path / "third" / "runs")
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    remember_place(tmp_path / "link")  # the app's own folder once more

    async def scenario(pilot):
        await pilot.press("6")
        await until(pilot, lambda: "● training" in see(app) and f"in    {elsewhere.run.path.parent}" in see(app))
        await pilot.press("X")
        assert "this run is going: enter opens it, then x stops it" in see(app)
        elsewhere.end()
        await until(pilot, lambda: "No runs in" in see(app))
        shown = set()
        for _ in range(3):
            await pilot.press("p")
            await pilot.pause()
            shown.add(str(app.screen.root))
        assert shown == {str(tmp_path / place / "runs") for place in (".", "there", "third")}

    drive(app, scenario)


def test_a_run_on_another_machine_says_so(drive, see, app, made, elsewhere):
    from evenfall.engine.run import owner as owner_module

    owner = owner_module.read_owner(elsewhere.run.path)
    assert owner
    elsewhere.end()
    with open(elsewhere.run.path / "run.lock", "rb+") as lock:
        owner_module.write_owner(lock.fileno(), replace(owner, host="box-2", place="other/pid:[1]", socket="/no.sock"))
    app.desk.root = elsewhere.run.path.parent

    async def scenario(pilot):
        await pilot.press("6")
        await until(pilot, lambda: "● training on box-2" in see(app))
        await pilot.press("enter")
        await until(
            pilot, lambda: app.poll() or f"process {owner.pid} on box-2 cannot be reached from here" in see(app)
        )

    drive(app, scenario)
