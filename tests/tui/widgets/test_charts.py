"""Plots: what decimation keeps, what ticks say, what is drawn."""

import math
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evenfall.tui.state.history import History
from evenfall.tui.widgets.plot import Curve, PlotData, decimate, draw_plot, nice_ticks, tick_labels

COLOR, AXIS = "#87afd7", "#6c6c6c"


def curve(ys, style: Literal["band", "line", "points"] = "band", first=1):
    return Curve(xs=[float(n) for n in range(first, first + len(ys))], ys=list(ys), color=COLOR, style=style)


def test_a_band_keeps_the_extremes_of_every_column():
    ys = [1.0] * 20_000
    ys[7_777], ys[13_131] = 9.0, -9.0
    points = [point for run in decimate(curve(ys), (0, 20_000), 75) for point in run]
    assert len(points) <= 150
    assert {y for _, y in points} == {1.0, 9.0, -9.0}
    (spike,) = [x for x, y in points if y == 9.0]
    assert abs(spike - 7_778) < 20_000 / 75


def test_few_points_are_kept_as_they_are():
    (run,) = decimate(curve([3.0, 2.0, 1.0]), (0, 10), 75)
    assert run == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]


@pytest.mark.parametrize("count", [50, 5_000])
def test_nan_is_a_gap(count):
    ys = [1.0] * count
    ys[count // 2 : count // 2 + count // 5] = [math.nan] * (count // 5)
    runs = decimate(curve(ys, "line"), (0, count), 75)
    assert len(runs) == 2
    assert runs[0][-1][0] <= count / 2 + 1 and runs[1][0][0] >= count * 0.69


def test_one_nan_among_many_does_not_hide_its_column():
    ys = [1.0] * 5_000
    ys[2_500] = math.nan
    (run,) = decimate(curve(ys), (0, 5_000), 75)
    assert all(y == 1.0 for _, y in run)


@given(
    st.lists(st.floats(width=32), max_size=400),
    st.sampled_from(["band", "line", "points"]),
    st.integers(8, 90),
)
def test_any_curve_can_be_reduced(ys, style, columns):
    for run in decimate(curve(ys, style), (0, 400), columns):
        assert run and all(math.isfinite(y) for _, y in run)
        assert [x for x, _ in run] == sorted(x for x, _ in run)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.9, 3.1, ["1", "2", "3"]),
        (0.0, 3100.0, ["0", "1000", "2000", "3000"]),
        (0.0, 20_000.0, ["0", "10k", "20k"]),
        (10_450.0, 11_600.0, ["10.5k", "11.0k", "11.5k"]),
        (0.0, 61.2, ["0", "20", "40", "60"]),
        (1e-3, 4e-3, ["0.001", "0.002", "0.003", "0.004"]),
    ],
)
def test_ticks_are_round_and_labels_short(low, high, labels):
    assert tick_labels(nice_ticks(low, high, 4)) == labels


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12), st.integers(1, 12))
@example(500000000501.0, 899999999299.0, 1)
@example(500000000501.0, 899999999299.0, 3)
@example(879609302221.0, 0.1, 2)  # a tick off by one in the last place
def test_ticks_lie_inside_and_are_not_too_many(low, span, at_most):
    high = low + span
    ticks = nice_ticks(low, high, at_most)
    assert len(ticks) <= at_most
    rounding = max(span * 1e-6, math.ulp(max(abs(low), abs(high))))
    assert all(low - rounding <= tick <= high + rounding for tick in ticks)


@pytest.mark.parametrize(("width", "height"), [(80, 12), (30, 6), (230, 70)])
def test_a_plot_fills_its_cells_in_the_given_colours(width, height):
    data = PlotData(
        curves=[curve([3 / n + 1 for n in range(1, 500)])],
        x_range=(0, 600),
        marks=[(300, "▲", COLOR)],
    )
    lines = draw_plot(data, width, height, AXIS)
    assert lines is not None and len(lines) == height
    texts = ["".join(text for text, _ in runs) for runs in lines]
    assert len(texts[-2]) == width  # the x axis
    assert all(len(text) <= width and "\x1b" not in text for text in texts)
    assert "▲" in texts[-3]
    assert {color for runs in lines for _, color in runs} == {"", COLOR, AXIS}


@pytest.mark.parametrize(
    "ys",
    [[], [math.nan] * 9, [1.0], [5.0] * 9, [0.0] * 9, [1e-30, 1e30], [math.inf, 1.0, -math.inf]],
)
@pytest.mark.parametrize("y_log", [False, True])
@pytest.mark.parametrize("size", [(80, 12), (20, 4), (10, 2), (1, 1), (0, 0)])
def test_no_data_breaks_a_plot(ys, y_log, size):
    lines = draw_plot(PlotData(curves=[curve(ys)], x_range=(0, 10), y_log=y_log), size[0], size[1], AXIS)
    assert lines is None or len(lines) == size[1]
    assert lines is None or all(sum(len(text) for text, _ in runs) <= size[0] for runs in lines)


def test_history_follows_and_begins_anew_when_steps_are_taken_back(script):
    history, steps = History(), [script.step(n) for n in range(1, 11)]
    history.follow(steps)
    history.follow(steps)
    assert len(history.steps) == 10
    again = [*steps[:5], script.step(6, loss=9.0), script.step(7)]
    history.follow(again)
    assert history.steps == [1, 2, 3, 4, 5, 6, 7] and history.loss[5] == 9.0
    history.follow([*again, script.step(8, loss=math.nan)])
    assert math.isnan(history.loss[-1]) and history.lost == [8]
    assert history.smooth[-1] == history.smooth[-2]
