"""What stays is set aside once."""

import gc

import pytest

from evenfall.tui.garbage import Garbage


@pytest.fixture(autouse=True)
def collector():
    """The collector as it was."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.enable()


def begun() -> Garbage:
    gc.disable()
    taken = Garbage()
    taken.first_paint()
    return taken


def test_what_came_is_set_aside_once():
    taken = begun()
    taken.keep("model")
    kept = [[] for _ in range(1000)]
    frozen = gc.get_freeze_count()
    taken.keep("model")
    assert gc.get_freeze_count() <= frozen
    taken.keep("train")
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_where_collecting_was_not_left_to_the_app_it_stays_as_it_is():
    before = gc.get_threshold(), gc.get_freeze_count()
    taken = Garbage()
    taken.first_paint()
    taken.keep("train")
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
