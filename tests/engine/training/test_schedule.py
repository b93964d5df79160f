"""Learning-rate schedules: those of transformers, and what live changes do to them."""

import dataclasses
import itertools
import math
from typing import Any

import pytest

from evenfall.engine.config.steps import in_steps
from evenfall.engine.training.schedule import RateChange, Schedule

TOTAL = 57
KINDS = ("cosine", "linear", "constant")


def rates(schedule: Schedule) -> list[float]:
    return [schedule.rate(step) for step in range(schedule.total_steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_warm_up_the_rates_are_those_of_transformers(kind: Any) -> None:
    import torch
    from transformers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    stock = get_scheduler(kind, optimizer, num_warmup_steps=0, num_training_steps=TOTAL)
    expected = []
    for _ in range(TOTAL):
        expected.append(stock.get_last_lr()[0])
        optimizer.step()
        stock.step()
    assert rates(Schedule(kind=kind, peak=2e-4, warmup_steps=0, total_steps=TOTAL)) == pytest.approx(
        expected, rel=1e-12, abs=1e-18
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_warm_up_learns_from_its_first_step_and_ends_at_the_peak(kind: Any) -> None:
    schedule = Schedule(kind=kind, peak=1e-3, warmup_steps=4, total_steps=TOTAL)
    assert rates(schedule)[:5] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert max(rates(schedule)) == pytest.approx(1e-3)
    after = rates(schedule)[4:]
    assert after == sorted(after, reverse=True)
    assert all(rate > 0 for rate in rates(schedule))


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_has_no_jumps(kind: Any) -> None:
    all_rates = rates(Schedule(kind=kind, peak=1.0, warmup_steps=10, total_steps=100))
    jumps = [abs(b - a) for a, b in itertools.pairwise(all_rates)]
    assert max(jumps) <= 0.1 + 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (1, 1), (5, 1), (5, 5), (100, 10), (0, 0)])
def test_short_runs_and_long_warm_ups_have_usable_rates(kind: Any, warmup: int, total: int) -> None:
    schedule = Schedule(kind=kind, peak=1.0, warmup_steps=warmup, total_steps=total)
    for step in range(total + 3):
        assert 0 <= schedule.rate(step) <= 1
    assert schedule.rate(0) > 0 or total == 0


def test_scale_multiplies_the_rest_and_keeps_the_shape() -> None:
    plain, changed = (
        Schedule(kind="cosine", peak=1e-3, warmup_steps=0, total_steps=TOTAL),
        Schedule(kind="cosine", peak=1e-3, warmup_steps=0, total_steps=TOTAL),
    )
    old = changed.change(20, 5e-4, "scale")
    assert old == plain.rate(20)
    assert rates(changed)[:20] == rates(plain)[:20]
    assert changed.rate(20) == pytest.approx(5e-4)
    factor = 5e-4 / old
    assert rates(changed)[20:] == pytest.approx([factor * rate for rate in rates(plain)[20:]])


def test_hold_keeps_the_value_to_the_end() -> None:
    schedule = Schedule(kind="linear", peak=1e-3, warmup_steps=5, total_steps=TOTAL)
    schedule.change(2, 3e-4, "hold")
    assert rates(schedule)[2:] == [3e-4] * (TOTAL - 2)


def test_later_changes_build_on_earlier_ones() -> None:
    schedule = Schedule(kind="linear", peak=1.0, warmup_steps=0, total_steps=10)
    schedule.change(2, 0.4, "scale")
    schedule.change(4, 0.6, "scale")
    assert schedule.rate(4) == pytest.approx(0.6)
    assert schedule.rate(3) == pytest.approx(0.5 * 0.7)
    schedule.change(6, 0.1, "hold")
    assert schedule.change(8, 0.2, "scale") == 0.1
    assert schedule.rate(9) == pytest.approx(0.2)
    schedule.change(8, 0.3, "scale")  # twice at one step
    assert schedule.rate(8) == pytest.approx(0.3)


def test_a_rate_of_zero_can_be_left_and_reached() -> None:
    schedule = Schedule(kind="constant", peak=0.0, warmup_steps=0, total_steps=10)
    assert schedule.change(3, 1e-4, "scale") == 0.0
    assert schedule.rate(9) == 1e-4
    schedule.change(5, 0.0, "scale")
    assert schedule.rate(5) == 0.0
    schedule.change(6, 2e-4, "scale")
    assert schedule.rate(7) == 2e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_schedule_is_the_same_to_the_last_bit(kind: Any) -> None:
    whole = Schedule(kind=kind, peak=3e-4, warmup_steps=7, total_steps=TOTAL)
    whole.change(10, 1e-4, "scale")
    whole.change(30, 2e-5, "hold")
    saved = [dataclasses.asdict(change) for change in whole.changes]
    resumed = Schedule(
        kind=kind,
        peak=3e-4,
        warmup_steps=7,
        total_steps=TOTAL,
        changes=[RateChange(**change) for change in saved],
    )
    assert rates(resumed) == rates(whole)
    assert all(math.isfinite(rate) for rate in rates(whole))


@pytest.mark.parametrize(
    ("value", "total", "steps"),
    [
        (5, 100, 5),
        (5, 3, 5),
        (0, 100, 0),
        (0.1, 100, 10),
        (0.1, 101, 11),
        (0.07, 100, 7),
        (0.001, 50, 1),
        (1, 50, 1),
    ],
)
def test_below_one_a_number_of_steps_is_a_share_of_all(value, total, steps) -> None:
    assert in_steps(value, total) == steps
