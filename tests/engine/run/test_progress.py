"""RunProgress: what a viewer shows after any story that a run can tell."""

import math
import typing
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenfall.engine.data.report.report import DataReport, SourceReport
from evenfall.engine.run import events as ev
from evenfall.engine.run.progress import RunProgress, ShownState


def step(n: int, loss: float = 1.0, tokens: int = 100, seconds: float = 0.5) -> ev.Step:
    return ev.Step(
        step=n,
        epoch=n / 10,
        loss=loss,
        learning_rate=1e-4,
        grad_norm=0.5,
        tokens=tokens,
        trained_tokens=50,
        seconds=seconds,
        memory_gb=1.0,
        memory_peak_gb=2.0,
        memory_total_gb=8.0,
    )


def started(resumed_from: int | None = None) -> ev.RunStarted:
    return ev.RunStarted(run="run", pid=1, device="CPU", versions={}, resumed_from=resumed_from)


def prepared(total: int) -> ev.DataPrepared:
    return ev.DataPrepared(
        DataReport(
            sources=[
                SourceReport(
                    path="rows.jsonl", format="messages", reason="keys", rows=10, kept=10, held_out=0, dropped={}, cut=0
                )
            ],
            eval_rows=0,
            tokens=1000,
            trained_tokens=500,
            bins=10,
            max_length=64,
            lengths=[],
            notes={},
        ),
        total,
    )


def oom(after: int) -> ev.OutOfMemory:
    return ev.OutOfMemory(
        step=after,
        phase="step",
        message="no memory",
        requested_gb=None,
        before_gb=1.0,
        at_gb=8.0,
        after_gb=1.0,
        limit_gb=8.0,
        rungs=[],
    )


def after(*events: ev.Event) -> RunProgress:
    progress = RunProgress()
    progress.apply_all(events)
    return progress


def steps_of(progress: RunProgress) -> list[int]:
    return [done.step for done in progress.steps]


def test_a_new_run_has_nothing_to_show_yet() -> None:
    progress = RunProgress()
    assert (progress.state, progress.step, progress.total_steps) == ("idle", 0, None)
    assert progress.tokens_per_second is None and progress.seconds_left is None
    assert progress.loss is progress.evaluation is progress.trained_seconds is None
    assert progress.shown_state(live=False) == "new" and progress.ending is None


def test_resuming_forgets_what_came_after_the_checkpoint() -> None:
    rate = ev.LearningRateChanged(step=7, old=1e-4, new=2e-4, mode="scale")
    early = ev.LearningRateChanged(step=3, old=1e-4, new=1e-4, mode="hold")
    story = [
        started(),
        *map(step, range(1, 6)),
        ev.CheckpointSaved(step=5, path="checkpoints/step-5", megabytes=1, seconds=1),
    ]
    story += [
        early,
        step(6),
        ev.Evaluated(step=6, loss=1.0, rows=5, seconds=1.0),
        step(7),
        rate,
        step(8),
    ]
    progress = after(*story, ev.Failed("killed", "", 5), started(5))
    assert steps_of(progress) == [1, 2, 3, 4, 5] and progress.step == 5
    assert progress.evaluations == [] and progress.rate_changes == [early]
    assert [saved.step for saved in progress.checkpoints] == [5]
    assert progress.failed is None


def test_resuming_without_a_checkpoint_begins_at_zero() -> None:
    progress = after(started(), step(1), step(2), started(0))
    assert steps_of(progress) == [] and progress.step == 0


def test_a_resumed_run_whose_early_events_are_lost_knows_its_step() -> None:
    assert after(started(40)).step == 40


def test_a_repeated_step_replaces_itself_and_all_that_followed() -> None:
    progress = after(
        *map(step, range(1, 9)),
        ev.Evaluated(step=6, loss=1.0, rows=5, seconds=1.0),
        step(5, loss=9.0),
    )
    assert steps_of(progress) == [1, 2, 3, 4, 5]
    assert progress.steps[-1].loss == 9.0 and progress.evaluations == []


def test_a_checkpoint_that_is_written_again_is_listed_once() -> None:
    saved = [ev.CheckpointSaved(step=n, path=f"checkpoints/step-{n}", megabytes=1, seconds=1) for n in (5, 10, 5)]
    assert [done.step for done in after(*saved).checkpoints] == [10, 5]


def test_out_of_memory_stands_until_it_is_answered() -> None:
    asked = [ev.StateChanged("training"), step(1), oom(1), ev.StateChanged("out-of-memory", "no")]
    assert after(*asked).out_of_memory == oom(1) and after(*asked).state == "out-of-memory"
    answers: list[ev.Event] = [
        ev.RecoveryApplied(step=1, rung="recompute", title="Recompute", automatic=False),
        ev.StateChanged("training"),
        ev.Failed("stopped"),
        started(1),
    ]
    for answer in answers:
        assert after(*asked, answer).out_of_memory is None, answer
    assert len(after(*asked, answers[0]).recoveries) == 1


def test_failed_and_finished_belong_to_the_process_that_said_so() -> None:
    done = ended("complete")
    assert after(started(), done).finished == done
    assert after(started(), done, started(2)).finished is None


def test_speed_leaves_the_first_step_out_and_looks_at_the_last_ten() -> None:
    assert after(step(1, seconds=10)).tokens_per_second == 10
    assert after(step(1, seconds=10), step(2)).tokens_per_second == 200
    slow_then_fast = [step(n, seconds=5) for n in range(1, 6)]
    slow_then_fast += [step(n, seconds=0.1) for n in range(6, 17)]
    assert math.isclose(after(*slow_then_fast).tokens_per_second or 0, 1000)
    assert after(step(1, seconds=0)).tokens_per_second is None


def test_time_left_follows_the_pace_of_the_last_ten_steps() -> None:
    assert after(prepared(20), step(1, seconds=2)).seconds_left == 38
    assert after(step(1)).seconds_left is None
    assert after(prepared(2), step(1), step(2)).seconds_left == 0
    assert after(prepared(2), step(5)).seconds_left == 0


def test_the_loss_is_the_mean_over_the_last_five_steps() -> None:
    losses = [9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    story = [step(n, loss=loss) for n, loss in enumerate(losses, 1)]
    assert after(*story).loss == 3.0
    assert after(*story[:3]).loss == 19.0 / 3, "what there is, before there are five"


def test_the_loss_passes_over_skipped_steps() -> None:
    losses = [2.0, math.inf, 2.0, -math.inf, math.nan]
    story = [step(n, loss=loss) for n, loss in enumerate(losses, 1)]
    assert after(*story).loss == 2.0
    assert after(step(1, loss=math.nan)).loss is None


def test_the_time_is_that_of_the_steps_that_count() -> None:
    story = [started(), *map(step, range(1, 9)), started(5), step(6), step(7)]
    assert after(*story).trained_seconds == 7 * 0.5
    told = [replace(done, seconds_so_far=100.0 + done.step) for done in map(step, range(1, 9))]
    assert after(*told).trained_seconds == 108.0, "the run counts on from its checkpoint"


def test_a_lower_rank_begins_a_new_adapter() -> None:
    again = ev.RecoveryApplied(step=8, rung="rank", title="Rank 8", automatic=False)
    saved = ev.CheckpointSaved(step=5, path="checkpoints/step-5", megabytes=1, seconds=1)
    progress = after(started(), *map(step, range(1, 9)), saved, again)
    assert (progress.step, progress.loss, progress.checkpoints) == (0, None, [])


def ended(reason: Literal["complete", "stopped"]) -> ev.Finished:
    return ev.Finished(
        reason=reason,
        step=2,
        seconds=1.0,
        tokens=200,
        adapter=None,
        first_loss=1.0,
        last_loss=1.0,
    )


TRAINS = [ev.StateChanged("loading"), started(), ev.StateChanged("training"), step(1)]
ASKS = [*TRAINS, oom(1), ev.StateChanged("out-of-memory")]


@pytest.mark.parametrize(
    ("story", "live", "state"),
    [
        ([], False, "new"),
        ([], True, "loading"),
        (TRAINS[:1], False, "interrupted"),
        (TRAINS, True, "training"),
        (TRAINS, False, "interrupted"),
        ([*TRAINS, ev.StateChanged("paused")], True, "paused"),
        ([*TRAINS, ev.StateChanged("of a later version")], True, "training"),  # type: ignore[arg-type]
        (ASKS, True, "waiting"),
        (ASKS, False, "interrupted"),
        ([*ASKS, ev.StateChanged("training")], True, "training"),
        ([*ASKS, ev.Failed("m"), ev.StateChanged("out-of-memory")], False, "out-of-memory"),
        ([*TRAINS, ev.Failed("m"), ev.StateChanged("failed")], False, "failed"),
        ([*TRAINS, ev.Failed("m")], False, "failed"),
        ([*TRAINS, ended("complete"), ev.StateChanged("finished")], False, "finished"),
        ([*TRAINS, ended("stopped"), ev.StateChanged("finished")], False, "stopped"),
        ([*TRAINS, ended("stopped")], True, "stopped"),
        ([*TRAINS, ev.StateChanged("finished")], False, "finished"),
        ([*TRAINS, ev.Failed("m"), ev.StateChanged("failed"), *TRAINS[:1]], True, "loading"),
        ([*TRAINS, ended("stopped"), *TRAINS], False, "interrupted"),
    ],
)
def test_the_shown_state_follows_from_what_was_said_and_who_is_there(
    story: list[ev.Event], live: bool, state: str
) -> None:
    assert after(*story).shown_state(live=live) == state


small = st.integers(0, 12)
anything = st.floats()
any_event: st.SearchStrategy[Any] = st.one_of(
    st.builds(started, st.none() | small),
    st.builds(step, small, anything, st.integers(0, 2**40), anything),
    st.builds(ev.StateChanged, st.sampled_from(["training", "out-of-memory", "failed", "paused"])),
    st.builds(prepared, small),
    st.builds(oom, small),
    st.builds(ev.Evaluated, step=small, loss=anything, rows=small, seconds=anything),
    st.builds(ev.CheckpointSaved, step=small, path=st.just("x"), megabytes=anything, seconds=anything),
    st.builds(ev.LearningRateChanged, step=small, old=anything, new=anything, mode=st.just("scale")),
    st.builds(
        ev.RecoveryApplied,
        step=small,
        rung=st.sampled_from(["recompute", "rank"]),
        title=st.just("t"),
        automatic=st.booleans(),
    ),
    st.builds(ev.Failed, st.just("m"), st.just(""), st.none() | small),
    st.builds(
        ev.Finished,
        reason=st.just("stopped"),
        step=small,
        seconds=anything,
        tokens=small,
        adapter=st.none(),
        first_loss=anything,
        last_loss=anything,
    ),
    st.builds(ev.Alert, st.just("m")),
    st.builds(ev.Progress, st.just("s")),
    st.builds(ev.CommandApplied, st.just("c"), small),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(any_event, max_size=40))
def test_no_story_breaks_a_viewer(story: list[ev.Event]) -> None:
    progress = RunProgress()
    for event in story:
        progress.apply(event)
        numbers = steps_of(progress)
        assert numbers == sorted(set(numbers))
        for live in (True, False):
            assert progress.shown_state(live=live) in typing.get_args(ShownState)
        figures = (progress.loss, progress.trained_seconds)
        for figure in (progress.tokens_per_second, progress.seconds_left, *figures):
            assert figure is None or isinstance(figure, float | int)
        if isinstance(event, ev.Step):
            assert progress.step == event.step
        if isinstance(event, ev.RunStarted) and event.resumed_from is not None:
            assert all(done.step <= event.resumed_from for done in progress.evaluations)
            assert progress.step <= event.resumed_from
