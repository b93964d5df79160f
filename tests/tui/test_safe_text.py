"""Hostile text from models, data, file names and errors reaches no terminal and breaks no screen."""

import pytest

from evenfall.engine.model.patch.part import PatchedPart
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.log import EventLog
from evenfall.tui.app import EvenfallApp
from evenfall.tui.safe_text import safe_str, safe_text
from evenfall.tui.screens.dialogs.common import TextModal
from evenfall.tui.screens.runs import RunsScreen
from evenfall.tui.state.notices import notice

CASES = range(16)


def test_every_case_is_tried(script):
    assert len(script.hostile) == len(CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lines", [False, True])
def test_no_control_survives(script, case, lines):
    text = safe_str(script.hostile[case], 500, lines=lines)
    assert len(text) <= 501
    assert not any((ord(char) < 0x20 and not (lines and char == "\n")) or 0x7F <= ord(char) < 0xA0 for char in text)
    text.encode("utf-8")


def test_markup_stays_text(script):
    for text in script.hostile[:4]:
        assert safe_text(text).plain == text
        assert not safe_text(text).spans


def events_with(bad, script):
    return [
        ev.StateChanged("loading", bad),
        ev.RunStarted(run=bad, pid=1, device=bad, versions={bad: bad}),
        ev.Progress(bad, bad, 0.5),
        ev.PartsPatched([PatchedPart(name=bad, kind=bad, count=1, fast=True, reason=bad)]),
        ev.ModelLoaded(
            name=bad,
            family=bad,
            parameters=1,
            trainable=1,
            quantization=bad,
            compute_dtype=bad,
            weights_gb=1.0,
            seconds=1.0,
        ),
        ev.StateChanged("training"),
        *map(script.step, (1, 2, 3)),
        ev.CheckpointSaved(step=3, path=bad, megabytes=1.0, seconds=1.0),
        ev.CommandApplied(bad, 3, bad),
        ev.CommandRefused(bad, bad),
        ev.Alert(bad),
    ]


def trouble_with(bad):
    ways = [
        ev.Rung(id="a", title=bad, effect=bad, changes={}, peak_gb=1.0, speed=0.5, keeps_result=True),
        ev.Rung(id="b", title=bad, effect=bad, changes={}, peak_gb=None, speed=None, keeps_result=False),
    ]
    return ev.OutOfMemory(
        step=3,
        phase="step",
        message=bad,
        requested_gb=1.0,
        before_gb=1.0,
        at_gb=2.0,
        after_gb=1.0,
        limit_gb=2.0,
        rungs=ways,
    )


@pytest.mark.parametrize("group", range(4))
def test_the_train_screen_and_its_dialogs_bear_it(drive, train_app, script, tmp_path, group):
    async def one(pilot, bad, session):
        session.log_error = bad
        await script.begin(pilot, session, *events_with(bad, script))
        assert script.control_free(train_app), repr(bad[:40])
        await pilot.press("i")
        await script.settle(pilot)
        assert script.control_free(train_app), repr(bad[:40])
        await pilot.press("escape")
        session.tell(trouble_with(bad), ev.StateChanged("out-of-memory"))
        await script.settle(pilot)
        assert script.control_free(train_app), repr(bad[:40])
        session.tell(
            ev.RecoveryApplied(step=3, rung=bad, title=bad, automatic=False),
            ev.StateChanged("training"),
        )
        await script.settle(pilot)
        notice(train_app, bad, "error")
        session.tell(ev.Failed(bad, bad, 3), ev.StateChanged("failed", bad))
        session.done = True
        await script.settle(pilot)
        assert script.control_free(train_app), repr(bad[:40])
        train_app.push_screen(TextModal(bad, bad))
        await script.settle(pilot)
        assert script.control_free(train_app), repr(bad[:40])
        await pilot.press("escape")

    async def scenario(pilot):
        for case in CASES[group::4]:
            run = script.make_run(tmp_path / "runs", f"case-{case}")
            await one(pilot, script.hostile[case], script.FakeSession(run))

    drive(train_app, scenario, (80, 24))


def test_the_runs_screen_bears_it(drive, see, tmp_path, script):
    """Names that a file system takes; the rest comes from configuration and events."""
    names = [text for text in script.hostile if text and len(text) < 200]
    for text in names:
        if "/" in text or "\x00" in text or "\ud800" in text:
            continue
        run = script.make_run(tmp_path / "runs", "x" + text)
        config = run.config()
        model = config.model.model_copy(update={"name_or_path": text})
        run.write_config(config.model_copy(update={"model": model}))
    bad = RunDirectory(tmp_path / "runs" / "plain")
    bad.path.mkdir()
    bad.config_file.write_bytes(b"model: {name_or_path: \xff}")
    log = EventLog(bad.events_file)
    log.append(ev.RunStarted(run="\x1b[2J", pid=1, device="[/x]", versions={}))
    log.close()
    app = EvenfallApp(root=tmp_path / "runs", first="runs")

    async def scenario(pilot):
        for _ in range(100):
            assert isinstance(app.screen, RunsScreen)
            app.screen.look()
            await pilot.pause(0.02)
            if "plain" in see(app):
                break
        assert "plain" in see(app) and script.control_free(app)
        for _ in range(12):
            await pilot.press("c", "down")
            await pilot.pause()
            assert script.control_free(app)

    drive(app, scenario)
