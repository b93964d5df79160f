"""Refused values: no run starts while a field holds one, and each ends as soon as it is no longer true."""

from types import SimpleNamespace
from typing import Any

import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.tui.state.desk import Desk
from evenfall.tui.state.refused import DraftField

RATE = DraftField(screen="model", key="train.learning_rate", title="learning rate", where="1, then a")
EVERY = DraftField(screen="model", key="train.eval_steps", title="evaluate every", where="1, then a")
HELD = DraftField(screen="data", key="data.eval_fraction", title="held out", where="2")


@pytest.fixture
def told():
    return []


@pytest.fixture
def desk(tmp_path, told):
    host: Any = SimpleNamespace(draft_changed=lambda: None, tell=lambda text, severity: told.append(str(text)))
    return Desk(host, root=tmp_path / "runs", config=RunConfig(output_dir=str(tmp_path / "runs")))


def test_a_start_is_refused_with_the_field_its_key_and_what_it_takes(desk, told, tmp_path):
    why = desk.offer(HELD, ["data.eval_fraction=10"])
    assert why.startswith("data.eval_fraction: got 10, takes number from 0 to 0.5")
    assert not desk.start_run()
    assert "held out" in told[0] and why in told[0] and "2 leads to the field" in told[0]
    assert not (tmp_path / "runs").exists()


def test_a_value_that_fits_ends_the_refusal_of_its_field_alone(desk):
    desk.offer(HELD, ["data.eval_fraction=10"])
    desk.offer(RATE, ["train.learning_rate=fast"])
    assert desk.offer(HELD, ["data.eval_fraction=0.1"]) == ""
    assert "learning rate" in desk.refused.why_no_start()
    desk.offer(RATE, ["train.learning_rate=1e-4"])
    assert desk.refused.why_no_start() is None


def test_a_value_that_fits_after_another_change_is_taken(desk):
    assert "nothing to evaluate on" in desk.offer(EVERY, ["train.eval_steps=10"])
    assert desk.offer(HELD, ["data.eval_fraction=0.1"]) == ""
    assert desk.draft.train.eval_steps == 10 and desk.draft.data.eval_fraction == 0.1
    assert desk.refused.why_no_start() is None


def test_a_key_that_is_set_elsewhere_ends_its_refusal(desk):
    desk.offer(RATE, ["train.learning_rate=fast"])
    desk.update_draft(["train.seed=1"])
    assert desk.refused.of("model") and not desk.refused.of("data")
    desk.update_draft(["train.learning_rate=1e-3"])
    assert not desk.refused.of("model")


def test_another_draft_as_a_whole_ends_every_refusal(desk):
    desk.offer(RATE, ["train.learning_rate=fast"])
    desk.set_draft(RunConfig())
    assert desk.refused.why_no_start() is None
