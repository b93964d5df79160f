"""The Train screen: what each state shows, and what each verb does."""

import math

import pytest

from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.tui.screens.dialogs.common import InfoModal, LearningRateModal, StopModal
from evenfall.tui.screens.dialogs.out_of_memory import OutOfMemoryModal
from evenfall.tui.state.desk import Desk
from evenfall.tui.widgets.charts import Chart
from evenfall.tui.widgets.log import LogPanel

SIZES = [(120, 36), (80, 24)]
FINISHED = ev.Finished(
    reason="complete",
    step=3100,
    seconds=9000.0,
    tokens=101_000_000,
    adapter="adapter",
    first_loss=2.912,
    last_loss=0.961,
)
STOPPED = ev.Finished(
    reason="stopped",
    step=1243,
    seconds=3600.0,
    tokens=40_000_000,
    adapter="adapter",
    first_loss=2.912,
    last_loss=1.011,
)


def states(script):
    """Name -> (events, whether the session has ended)."""
    nan = [script.step(1244, loss=math.nan), script.step(1245)]
    return {
        "loading": (script.set_up()[:4], False),
        "training": (script.training(), False),
        "paused": ([*script.training(), ev.StateChanged("paused")], False),
        "lost-step": ([*script.training(), *nan, ev.Alert("grad norm 12 times its median")], False),
        "rate-changed": (
            [*script.training(), ev.LearningRateChanged(step=1243, old=1.2e-4, new=6e-5, mode="scale"),
             ev.CommandRefused("EvaluateNow", "no rows are held out")],
            False,
        ),
        "finished": ([*script.training(3100), FINISHED, ev.StateChanged("finished")], True),
        "stopped": ([*script.training(), STOPPED, ev.StateChanged("finished")], True),
        "failed": (
            [*script.training(700),
             ev.Failed("CUDA error: device-side assert triggered", "look at the data", 600),
             ev.StateChanged("failed", "CUDA error")],
            True,
        ),
        "interrupted": (script.training(700), True),
    }  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "state",
    ["loading", "training", "paused", "lost-step", "rate-changed", "finished", "stopped", "failed",
     "interrupted"],
)  # fmt: skip
def test_state_looks_as_it_should(drive, train_app, session, script, same_as_snapshot, state, size):
    events, done = states(script)[state]
    session.done = done

    async def scenario(pilot):
        await script.begin(pilot, session, *events)
        same_as_snapshot(train_app, f"train-{state}")

    drive(train_app, scenario, size)


@pytest.mark.parametrize("size", SIZES)
def test_without_a_run_it_says_how_to_get_one(drive, train_app, same_as_snapshot, size):
    async def scenario(pilot):
        same_as_snapshot(train_app, "train-empty")

    drive(train_app, scenario, size)


@pytest.mark.parametrize(
    ("key", "command", "mark"),
    [
        ("space", cmd.Pause(), "○ pause"),
        ("s", cmd.SaveNow(), "○ save"),
        ("e", cmd.EvaluateNow(), "○ evaluation"),
    ],
)
def test_a_verb_is_sent_and_marked_until_it_is_answered(drive, see, train_app, session, script, key, command, mark):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press(key)
        await pilot.pause()
        assert session.commands == [command]
        assert mark in see(train_app)
        session.tell(ev.CommandApplied(type(command).__name__, 20))
        await script.settle(pilot)
        assert mark not in see(train_app)

    drive(train_app, scenario)


def test_space_goes_on_after_a_pause(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20), ev.StateChanged("paused"))
        assert "space Go on" in see(train_app)
        await pilot.press("space")
        assert session.commands == [cmd.Resume()]

    drive(train_app, scenario)


def test_a_refused_command_is_told_with_its_reason(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press("s")
        session.tell(ev.CommandRefused("SaveNow", "the disk is full"))
        await script.settle(pilot)
        assert "save refused: the disk is full" in see(train_app)
        assert "○ save" not in see(train_app)

    drive(train_app, scenario)


def test_evaluation_without_held_out_rows_says_why_not(drive, see, train_app, session, script):
    async def scenario(pilot):
        events = [*script.set_up(eval_rows=0), ev.StateChanged("training"), script.step(1)]
        await script.begin(pilot, session, *events)
        await pilot.press("e")
        await pilot.pause()
        assert session.commands == []
        assert "no rows are held out" in see(train_app)

    drive(train_app, scenario)


@pytest.mark.parametrize(
    ("keys", "commands"),
    [
        (["enter"], [cmd.Stop(save=True)]),
        (["s"], [cmd.Stop(save=True)]),
        (["w"], [cmd.Stop(save=False)]),
        (["down", "enter"], [cmd.Stop(save=False)]),
        (["c"], []),
        (["escape"], []),
    ],
)
def test_stopping_asks_and_the_default_saves(drive, train_app, session, script, keys, commands):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press("x")
        await script.settle(pilot)
        assert isinstance(train_app.screen, StopModal)
        await pilot.press(*keys)
        await pilot.pause()
        assert session.commands == commands

    drive(train_app, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_the_learning_rate_is_changed_in_one_line(drive, train_app, session, script, same_as_snapshot, size):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(1243))
        await pilot.press("l")
        await script.settle(pilot)
        assert isinstance(train_app.screen, LearningRateModal)
        await pilot.press(*["backspace"] * 8, *"6e-5", "down")
        await script.settle(pilot)
        same_as_snapshot(train_app, "train-rate")
        await pilot.press("enter")
        await pilot.pause()
        assert session.commands == [cmd.SetLearningRate(6e-5, "hold")]

    drive(train_app, scenario, size)


def test_a_rate_five_times_higher_is_asked_about_once(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(1243))
        await pilot.press("l")
        await script.settle(pilot)
        await pilot.press(*["backspace"] * 8, *"2e-3", "enter")
        await script.settle(pilot)
        assert session.commands == []
        assert "enter again to apply it" in see(train_app)
        await pilot.press("enter")
        await pilot.pause()
        assert session.commands == [cmd.SetLearningRate(2e-3, "scale")]

    drive(train_app, scenario)


def test_the_rate_as_it_stands_asks_for_nothing(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press("l")
        await script.settle(pilot)
        assert "another rate" in see(train_app)
        await pilot.press("enter")
        await script.settle(pilot)
        assert session.commands == []
        assert "stays as it is" in see(train_app)

    drive(train_app, scenario)


@pytest.mark.parametrize("text", ["", "-1", "11", "e", "1e999"])
def test_a_rate_that_is_none_is_not_sent(drive, see, train_app, session, script, text):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(20))
        await pilot.press("l")
        await script.settle(pilot)
        train_app.screen.query_one("Input").value = text
        await pilot.press("enter")
        await script.settle(pilot)
        assert session.commands == []
        assert "a number from 0 to 10" in see(train_app)

    drive(train_app, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_info_tells_which_parts_are_fast_and_why(drive, train_app, session, script, same_as_snapshot, size):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(1243))
        await pilot.press("i")
        await script.settle(pilot)
        assert isinstance(train_app.screen, InfoModal)
        same_as_snapshot(train_app, "train-info")

    drive(train_app, scenario, size)


@pytest.mark.parametrize("size", SIZES)
def test_windows_and_log_scale_change_the_plots(drive, train_app, session, script, same_as_snapshot, size):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(1243))
        await pilot.press("w", "y")
        await script.settle(pilot)
        same_as_snapshot(train_app, "train-last500-log")
        await pilot.press("w", "w", "y")
        await script.settle(pilot)
        same_as_snapshot(train_app, "train-training")

    drive(train_app, scenario, size)


def test_plots_are_drawn_on_new_data_alone(drive, train_app, session, script, monkeypatch):
    drawn = []
    real = Chart.set_data
    monkeypatch.setattr(Chart, "set_data", lambda self, *args: (drawn.append(self.id), real(self, *args)))

    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(50))
        drawn.clear()
        train_app.screen.draw_charts()
        assert drawn == []
        session.tell(script.step(51))
        train_app.poll()
        train_app.screen.draw_charts()
        assert drawn == ["loss", "rate", "memory"]

    drive(train_app, scenario)


def picture(chart):
    return [strip.text for strip in chart.render_lines(chart.size.region)]


def test_every_plot_grows_with_the_run(drive, see, train_app, session, script):
    """Steps are added in place to the same lists, so nothing may be told by comparing them."""

    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(100))
        before = {chart.id: picture(chart) for chart in train_app.screen.query(Chart)}
        session.tell(*(script.step(n) for n in range(101, 2000)))
        train_app.poll()
        train_app.screen.draw_charts()
        await script.settle(pilot)
        for chart in train_app.screen.query(Chart):
            assert picture(chart) != before[chart.id], chart.id

    drive(train_app, scenario)


def test_r_takes_up_the_failed_run_that_is_shown(drive, train_app, session, script, monkeypatch):
    taken_up = []
    monkeypatch.setattr(Desk, "resume_run", lambda self, run: taken_up.append(run))
    events, session.done = states(script)["failed"]

    async def scenario(pilot):
        await script.begin(pilot, session, *events)
        await pilot.press("r")
        await pilot.pause()
        assert taken_up == [session.run]

    drive(train_app, scenario)


def test_a_card_comes_back_after_a_run_that_has_none(drive, see, train_app, session, script, tmp_path):
    events, session.done = states(script)["failed"]
    other = script.FakeSession(script.make_run(tmp_path / "runs", "other"))

    async def scenario(pilot):
        await script.begin(pilot, session, *events)
        assert "device-side assert triggered" in see(train_app)
        await script.begin(pilot, other, *script.training(20))
        other.done = True
        assert "device-side assert" not in see(train_app)
        await script.begin(pilot, session)
        assert "device-side assert triggered" in see(train_app)

    drive(train_app, scenario)


def test_a_log_that_is_not_on_disk_is_told(drive, see, train_app, session, script):
    async def scenario(pilot):
        session.log_error = "No space left on device"
        await script.begin(pilot, session, *script.training(20))
        assert "the run's log is not on disk: No space left on device" in see(train_app)

    drive(train_app, scenario)


def test_lines_told_while_the_window_is_too_small_are_whole_afterwards(drive, see, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(done=20))
        await pilot.resize_terminal(60, 20)
        await script.settle(pilot)
        session.tell(ev.CheckpointSaved(step=20, path="checkpoints/step-20", megabytes=168.0, seconds=1.9))
        await script.settle(pilot)
        await pilot.resize_terminal(120, 36)
        await script.settle(pilot)
        assert "20 saved checkpoint (168 MB, 1.9" in see(train_app)

    drive(train_app, scenario)


def test_the_log_stays_where_it_was_scrolled_to(drive, train_app, session, script):
    async def scenario(pilot):
        await script.begin(pilot, session, *script.training(1243))
        log = train_app.screen.query_one(LogPanel)
        log.scroll_home(animate=False)
        await script.settle(pilot)
        session.tell(ev.Alert("something"))
        await script.settle(pilot)
        assert log.scroll_offset.y == 0
        log.scroll_end(animate=False)
        await script.settle(pilot)
        session.tell(ev.Alert("something more"))
        await script.settle(pilot)
        assert log.is_vertical_scroll_end

    drive(train_app, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_out_of_memory_opens_its_dialog(drive, train_app, session, script, same_as_snapshot, size):
    async def scenario(pilot):
        events = [*script.training(1250), script.OOM, ev.StateChanged("out-of-memory")]
        await script.begin(pilot, session, *events)
        await script.settle(pilot)
        assert isinstance(train_app.screen, OutOfMemoryModal)
        same_as_snapshot(train_app, "train-oom")

    drive(train_app, scenario, size)


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        (["enter"], cmd.ApplyRecovery("recompute")),
        (["2"], cmd.ApplyRecovery("micro-batch")),
        (["down", "down", "enter"], cmd.ApplyRecovery("shorter")),
        (["x"], cmd.Stop(save=True)),
    ],
)
def test_one_key_answers_out_of_memory(drive, train_app, session, script, keys, command):
    async def scenario(pilot):
        events = [*script.training(50), script.OOM, ev.StateChanged("out-of-memory")]
        await script.begin(pilot, session, *events)
        await script.settle(pilot)
        await pilot.press(*keys)
        await pilot.pause()
        assert session.commands == [command]

    drive(train_app, scenario)


def test_out_of_memory_can_be_closed_and_asked_again(drive, train_app, session, script):
    async def scenario(pilot):
        events = [*script.training(50), script.OOM, ev.StateChanged("out-of-memory")]
        await script.begin(pilot, session, *events)
        await script.settle(pilot)
        await pilot.press("escape", "9")
        await script.settle(pilot)
        assert session.commands == []
        assert not isinstance(train_app.screen, OutOfMemoryModal)
        await pilot.press("o")
        await script.settle(pilot)
        assert isinstance(train_app.screen, OutOfMemoryModal)

    drive(train_app, scenario)


def test_the_dialog_goes_when_the_run_goes_on(drive, train_app, session, script):
    async def scenario(pilot):
        events = [*script.training(50), script.OOM, ev.StateChanged("out-of-memory")]
        await script.begin(pilot, session, *events)
        await script.settle(pilot)
        session.tell(ev.RecoveryApplied(step=50, rung="recompute", title="Recompute", automatic=True))
        session.tell(ev.StateChanged("training"))
        await script.settle(pilot)
        assert not isinstance(train_app.screen, OutOfMemoryModal)
        assert session.commands == []

    drive(train_app, scenario)
