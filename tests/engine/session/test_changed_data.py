"""A run that is taken up with other data than it was begun with: told, and never an update of no rows."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

Make = Callable[..., RunConfig]


def finish(session: Session) -> list[ev.Event]:
    session.start()
    assert session.wait(300), "the run did not end"
    return session.events_since(0)


def write(path: Path, rows: range, **more) -> None:
    words = ["red", "green", "blue", "one", "two", "three", "sky", "sea", "sun", "moon"]
    lines = []
    for n in rows:
        said = " ".join(words[(n * 3 + k) % 10] for k in range(4 + n % 5))
        turns = [{"role": "user", "content": f"what is {said}"}, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"messages": turns, **more}) + "\n")
    path.write_text("".join(lines))


def taken_up(tiny_config: Make, path: Path, change: Callable[[], None]) -> list[ev.Event]:
    """The events of a resumption; the data were changed before it."""
    write(path, range(20))
    settings = {"data": {"path": str(path), "max_length": 32, "keep": ["duplicate"]}}
    config = tiny_config(name="r", train={"max_steps": 4, "gradient_accumulation_steps": 2}, **settings)
    directory = create_run(config)
    before = len(finish(Session(directory)))
    change()
    directory.write_config(config.with_overrides(["train.max_steps=8"]))
    return finish(Session(directory, resume=True))[before:]


def alerts(events: list[ev.Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, ev.Alert) and "data changed" in event.message]


@pytest.mark.parametrize("left", [1, 3, 19])
def test_fewer_rows_are_told_and_every_update_has_some(tiny_config: Make, tmp_path: Path, left: int) -> None:
    path = tmp_path / "rows.jsonl"
    events = taken_up(tiny_config, path, lambda: write(path, range(left)))
    assert len(alerts(events)) == 1 and "since step 4" in alerts(events)[0]
    steps = [event for event in events if isinstance(event, ev.Step)]
    assert [step.step for step in steps] == [5, 6, 7, 8]
    assert all(step.tokens > 0 and math.isfinite(step.loss) for step in steps)


def test_the_same_rows_are_no_change_whatever_stands_beside_them(tiny_config: Make, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    events = taken_up(tiny_config, path, lambda: write(path, range(20), note="new"))
    assert alerts(events) == []
    assert [event.step for event in events if isinstance(event, ev.Step)] == [5, 6, 7, 8]


def test_what_is_asked_of_a_new_run_is_not_asked_of_one_that_has_begun(tiny_config: Make, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    events = taken_up(tiny_config, path, lambda: write(path, range(20), history=[["a", "b"]]))
    assert any(isinstance(event, ev.Finished) for event in events)
