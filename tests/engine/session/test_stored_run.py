"""A run of an earlier version of the code opens, resumes and ends.

`stored_run/` is the folder of a run of 30 steps on the demo's model and data (rank 4 on q and v, CPU, one thread) that
was
killed behind step 18 under commit 4144d38; `undisturbed.json` has the losses of the same run without a kill. Names in
events, keys of the loop's state and names of tensors in checkpoints are therefore not to change.
"""

import json
import shutil
from pathlib import Path

import pytest

from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.session.session import Session

STORED = Path(__file__).parent / "stored_run"


@pytest.fixture
def stored(tmp_path: Path) -> RunDirectory:
    folder = tmp_path / "runs" / "killed"
    shutil.copytree(STORED, folder, ignore=shutil.ignore_patterns("undisturbed.json"))
    return RunDirectory(folder)


def test_its_story_reads(stored: RunDirectory):
    progress = stored.progress()
    assert progress.shown_state(live=False) == "interrupted"
    assert progress.step == 18 and progress.total_steps == 30 and stored.checkpoints() == [16]
    assert progress.parts is not None and {part.kind for part in progress.parts.parts} >= {"swiglu"}
    assert [evaluation.step for evaluation in progress.evaluations] == [10]


def test_it_resumes_and_repeats_the_undisturbed_one(stored: RunDirectory):
    session = Session(stored, resume=True)
    session.start()
    assert session.wait(240), session.state
    events = session.events_since(0)
    failures = [event for event in events if isinstance(event, ev.Failed)]
    assert session.state == "finished", failures
    progress = stored.progress()
    losses = {step.step: step.loss for step in progress.steps}
    want = json.loads((STORED / "undisturbed.json").read_text())["losses"]
    # On the machine that it was begun on they are the same to the last bit; another one may add in another order.
    assert [losses[step] for step in range(1, 31)] == pytest.approx(want, rel=2e-3)
    assert (stored.adapter / "adapter_model.safetensors").is_file()
    assert progress.shown_state(live=False) == "finished"
