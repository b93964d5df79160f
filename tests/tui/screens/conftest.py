"""Runs on disk, for the screens that list them."""

import time

import pytest
from runs_table import FINISHED, NOW

from evenfall.engine.run import events as ev
from evenfall.engine.run import summary as run_list
from evenfall.engine.run.log import EventLog
from evenfall.tui.screens import runs as runs_screen


@pytest.fixture
def write_run(tmp_path, script, monkeypatch):
    """`write_run(name, events, age)`: a run on disk, its last event `age` seconds before NOW."""

    def write(name, events, age=0.0):
        run = script.make_run(tmp_path / "runs", name)
        stamps = iter([NOW - age - 60.0 * (len(events) - n) for n in range(1, len(events) + 1)])
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: next(stamps))
            log = EventLog(run.events_file)
            for event in events:
                log.append(event)
            log.close()
        return run

    return write


@pytest.fixture
def four_runs(write_run, script, monkeypatch):
    done = [*script.training(3100), FINISHED, ev.StateChanged("finished")]
    failed = [*script.training(88), ev.Failed("oom", "", None), ev.StateChanged("failed")]
    runs = [
        write_run("0409-good", done, 3 * 86_400),
        write_run("0410-lr3e4", failed, 5 * 3600),
        write_run("0411-dropped", script.training(700), 20 * 60),
        write_run("0412-live", script.training(1243), 1),
    ]
    (runs[0].adapter).mkdir()
    for run, step in ((runs[0], 3000), (runs[2], 600)):
        run.checkpoint(step).mkdir(parents=True)
        (run.checkpoint(step) / "state.json").write_text("{}")
    monkeypatch.setattr(runs_screen.time, "time", lambda: NOW)
    # Sizes on disk differ by a byte from one file system to the next.
    monkeypatch.setattr(run_list, "_megabytes", lambda folder: 1234.0)
    with runs[3].lock():
        yield {run.name: run for run in runs}
