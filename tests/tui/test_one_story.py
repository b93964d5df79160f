"""One run, one story: every list, card and line says the same of it.

A run is told by its events on disk, for each way that it can stand; what `evenfall runs`, the Runs
screen, Train, Export and the plain lines say of it is compared, word for word and figure for figure.
"""

import argparse
import contextlib
import itertools
from dataclasses import dataclass, replace

import pytest

from evenfall.engine.run import events as ev
from evenfall.engine.run.facts import read_facts
from evenfall.engine.run.log import EventLog
from evenfall.engine.run.progress import RunProgress
from evenfall.engine.run.summary import summarise
from evenfall.tui.commands import runs as runs_command
from evenfall.tui.commands import watch as watch_command
from evenfall.tui.state.history import History
from evenfall.tui.state.sources import FollowedRun
from evenfall.tui.words import export, run, run_plots
from evenfall.tui.words.run_figures import STATES, loss_words, state_word
from evenfall.tui.words.run_rows import COLUMNS, cells_of

STARTED = ev.RunStarted(run="r", pid=1, device="CPU", versions={})
COLORS = run_plots.Palette(
    band="#000001", smooth="#000002", held_out="#000003", change="#000004", lost="#000005",
    rate="#000006", memory="#000007",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """A story, and what is to be said of it."""

    state: str
    events: list[ev.Event]
    live: bool = False
    steps: str = "33/60"
    loss: str = "1.800"
    evaluation: str = "1.950"
    trained: str = "16 s"


def steps(script, count, *, old=False):
    """Half a second a step; the losses of the last five are 1.6 to 2.0."""
    for n in range(1, count + 1):
        loss = 2.0 - 0.1 * (n - (count - 4)) if n > count - 5 else 3.0
        made = replace(script.step(n, 60), loss=loss, seconds=0.5)
        yield made if old else replace(made, seconds_so_far=0.5 * n)


def ended(reason, step, seconds):
    return ev.Finished(
        reason=reason, step=step, seconds=seconds, tokens=step * 32_768, adapter="adapter",
        first_loss=3.0, last_loss=1.8 if step else None,
    )  # fmt: skip


def stories(script, *, old=False):
    """Name -> Case."""
    begun = [STARTED if isinstance(e, ev.RunStarted) else e for e in script.set_up(60)]
    begun.append(ev.StateChanged("training"))
    tested = ev.Evaluated(step=30, loss=1.95, rows=9, seconds=4.0)
    some = [*begun, *steps(script, 33, old=old), tested]
    whole = [*begun, *steps(script, 60, old=old), replace(tested, step=60)]
    failed = ev.Failed("CUDA error", "look at the data", 30)
    asks = [script.OOM, ev.StateChanged("out-of-memory")]
    nothing = Case(state="new", events=[], steps="0", loss="-", evaluation="-", trained="-")
    return {
        "finished": Case(
            state="finished",
            events=[*whole, ended("complete", 60, 30.0), ev.StateChanged("finished")],
            steps="60/60",
            trained="30 s",
        ),
        "stopped": Case(
            state="stopped",
            events=[*some, ended("stopped", 33, 16.5), ev.StateChanged("finished")],
        ),
        "stopped before training": replace(
            nothing,
            state="stopped",
            events=[
                *script.set_up(60)[:3], replace(ended("stopped", 0, 0.0), adapter=None),
                ev.StateChanged("finished", "stopped before training began"),
            ],
        ),
        "failed": Case(state="failed", events=[*some, failed, ev.StateChanged("failed")]),
        "ended out of memory": Case(
            state="out-of-memory",
            events=[*some, *asks, failed, ev.StateChanged("out-of-memory", "nobody to ask")],
        ),
        "killed": Case(state="interrupted", events=some),
        "killed while it waited": Case(state="interrupted", events=[*some, *asks]),
        "killed while loading": replace(
            nothing, state="interrupted", events=script.set_up(60)[:4]
        ),
        "training": Case(state="training", events=some, live=True),
        "paused": Case(state="paused", events=[*some, ev.StateChanged("paused")], live=True),
        "waiting": Case(state="waiting", events=[*some, *asks], live=True),
        "never begun": nothing,
    }  # fmt: skip


NAMES = [
    "finished", "stopped", "stopped before training", "failed", "ended out of memory", "killed",
    "killed while it waited", "killed while loading", "training", "paused", "waiting",
    "never begun",
]  # fmt: skip
LIVE = {"training", "paused", "waiting"}


@contextlib.contextmanager
def on_disk(directory, case):
    """The run with this story, held by a process where it is live."""
    log = EventLog(directory.events_file)
    for event in case.events:
        log.append(event)
    log.close()
    with directory.lock() if case.live else contextlib.nullcontext():
        yield


def listed(capsys):
    """Cells of the row that `evenfall runs` prints: name, state, steps, loss, eval, trained."""
    assert runs_command._runs(argparse.Namespace(runs="runs", json=False)) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    state = header.index("STATE")
    ends = [header.index(name) + len(name) for name in ("STEP", "LOSS", "EVAL", "TRAINED")]
    places = [0, state, ends[0] - 13, *ends]
    return [row[at:end].strip() for at, end in itertools.pairwise(places)]


def read(directory):
    """The run as Train has it, its history read."""
    source = FollowedRun(directory)
    assert source._first is not None and source._first.wait(600)
    source.poll()
    return source


def loss_title(source):
    history = History()
    history.follow(source.progress.steps)
    return run_plots.loss_title(history, source.progress, COLORS, None, False).plain


@pytest.mark.parametrize("old", [False, True], ids=["", "log of an older version"])
@pytest.mark.parametrize("name", NAMES)
def test_the_lists_say_the_same_of_a_run(run_directory, script, capsys, name, old):
    case = stories(script, old=old)[name]
    glyph, word, _ = STATES[case.state]
    figures = [case.loss, case.evaluation, case.trained]
    with on_disk(run_directory, case):
        assert listed(capsys) == [run_directory.name, word, case.steps, *figures]
        row = summarise(run_directory)
        cells = dict(zip(COLUMNS, cells_of(row, 0.0), strict=True))
        assert (cells["state"], row.live) == (f"{glyph} {word}", case.live)
        assert [cells["loss"], cells["eval"], cells["trained"]] == figures
        assert cells["steps"] == ("-" if case.state == "new" else case.steps)
        facts = read_facts(run_directory)
        assert f" · {word} at step {facts.step} " in export.run_line(facts).plain


@pytest.mark.parametrize("old", [False, True], ids=["", "log of an older version"])
@pytest.mark.parametrize("name", NAMES)
def test_train_says_what_the_lists_say(run_directory, script, name, old):
    case = stories(script, old=old)[name]
    glyph, word, _ = STATES[case.state]
    with on_disk(run_directory, case):
        source = read(run_directory)
        assert run.badge(run.state_of(source)).plain == f"{glyph} {word.upper()}"
        shown = dict(run.facts(source, source.config))
        if case.loss == "-":
            assert loss_title(source) == "loss" and "trained" not in shown
        else:
            assert f"loss {case.loss} (last 5)  step 1.600  smoothed  " in loss_title(source)
            assert f"eval {case.evaluation} at " in loss_title(source)
            assert shown["trained"].plain == case.trained
        card = run.card(source)
        if case.state in ("finished", "stopped"):
            assert card is not None
            head, *rest = card.plain.splitlines()
            time = "nothing trained" if case.trained == "-" else f"trained {case.trained}"
            assert head.startswith(f"{glyph} {word.capitalize()} at step {case.steps}, {time}")
            if case.loss != "-":
                means = f"loss 3.000 → {case.loss} (means of 5 steps) · eval {case.evaluation} at"
                assert means in rest[0]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([6.0], "loss 6.000 (its one step)"),
        ([6.0, 5.0, 4.0], "loss 5.000 (mean of its 3 steps)"),
        ([6.0, 5.0, 4.0, 3.0, 2.0], "loss 4.000 (mean of its 5 steps)"),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "loss 4.000 → 3.000 (means of 5 steps)"),
    ],
)
def test_a_run_of_few_steps_has_one_loss(script, losses, words):
    """Its first five steps are its last five: two equal figures would say that nothing was learnt."""
    progress = RunProgress()
    for n, loss in enumerate(losses, 1):
        progress.apply(script.step(n, total=len(losses), loss=loss))
    means = [sum(part) / len(part) for part in (losses[:5], losses[-5:])]
    progress.apply(
        ev.Finished(
            reason="complete", step=len(losses), seconds=1.0, tokens=1, adapter="adapter",
            first_loss=means[0], last_loss=means[1],
        )
    )  # fmt: skip
    assert loss_words(progress) == words


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LIVE])
def test_watch_ends_with_what_the_lists_say(run_directory, script, capsys, name):
    case = stories(script)[name]
    with on_disk(run_directory, case):
        args = argparse.Namespace(run=run_directory.name, runs="runs", plain=True)
        code = watch_command._watch(args)
    assert code == (0 if case.state in ("finished", "stopped") else 1), "as it always was"
    time = "nothing trained" if case.trained == "-" else f"trained {case.trained}"
    (line,) = [
        text
        for text in capsys.readouterr().out.splitlines()
        if text.startswith(f"{state_word(case.state)} at step {case.steps}: {time}")
    ]
    if case.loss != "-":
        assert f"{case.loss} (mean" in line and f"eval {case.evaluation} at step" in line


def test_a_stop_before_training_tells_the_total_where_the_configuration_does(run_directory, script, capsys):
    config = run_directory.config()
    train = config.train.model_copy(update={"max_steps": 60})
    run_directory.write_config(config.model_copy(update={"train": train}))
    with on_disk(run_directory, stories(script)["stopped before training"]):
        assert listed(capsys)[1:3] == ["stopped", "0/60"]
        source = read(run_directory)
        assert run.bar_view(source, source.config).before == "step 0/60"
        card = run.card(source)
        assert card is not None and "Stopped at step 0/60, nothing trained" in card.plain


@pytest.mark.parametrize("name", ["stopped", "failed", "ended out of memory", "killed"])
def test_what_ended_before_its_end_is_taken_up_again_from_both_screens(run_directory, script, name):
    case = stories(script)[name]
    saved = ev.CheckpointSaved(step=30, path="checkpoints/step-30", megabytes=1.0, seconds=1.0)
    events = [*case.events]
    events.insert(-3, saved)
    run_directory.checkpoint(30).mkdir(parents=True)
    (run_directory.checkpoint(30) / "state.json").write_text("{}")
    with on_disk(run_directory, replace(case, events=events)):
        assert summarise(run_directory).resumable
        source = read(run_directory)
        assert run.resumable(source)
        card = run.card(source)
        assert card is not None
        assert "resume from step 30" in card.plain or "go on with it" in card.plain


def test_a_followed_run_whose_process_is_killed_turns_interrupted(run_directory, script):
    case = replace(stories(script)["killed"], live=True)
    with on_disk(run_directory, case):
        source = read(run_directory)
        source.LIVE_CHECK_SECONDS = 0.0
        assert run.state_of(source) == "training"
        source.poll()
    assert source.poll(), "that it is gone is news"
    assert run.state_of(source) == "interrupted"
