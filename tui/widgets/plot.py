"""Drawing a plot with plotext: decimation to the plot's columns, round ticks, theme colours.

plotext keeps one global figure, so `draw_plot` is for the UI thread alone; it is imported when the
first plot is drawn (75-110 ms), which is after the first paint. A curve of any length is first reduced
to one or two points a column: braille has no more room, and plotext's cost grows with its points.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

LABEL_CELLS = 6
"""Width of the y labels, fixed so that a plot does not jump sideways as its values change."""

Points = list[tuple[float, float]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """One line of a plot. Values that are not finite are gaps."""

    xs: Sequence[float]
    """Ascending."""
    ys: Sequence[float]
    color: str
    """`#rrggbb`."""
    style: Literal["band", "line", "points", "bars"] = "line"
    """band: lowest to highest of each column; line: mean of each column; points: each a glyph; bars: the sum
    of each half column, filled down to the axis."""
    glyph: str = "braille"


@dataclass(frozen=True, eq=False, kw_only=True)
class PlotData:
    """What a plot shows."""

    curves: Sequence[Curve]
    x_range: tuple[float, float]
    y_log: bool = False
    y_from_zero: bool = False
    marks: Sequence[tuple[float, str, str]] = ()
    """(x, glyph, colour) on the x axis."""


def decimate(curve: Curve, x_range: tuple[float, float], columns: int) -> list[Points]:
    """The curve inside `x_range` as runs of points, one run between two gaps.

    At most two points a column, so that its extremes survive ("band"), or one, their mean.
    """
    if curve.style == "bars":
        return _bars(curve, x_range, 2 * columns)
    first, last = bisect_left(curve.xs, x_range[0]), bisect_right(curve.xs, x_range[1])
    if last - first <= columns:
        return _runs(zip(curve.xs[first:last], curve.ys[first:last], strict=True))
    width = (x_range[1] - x_range[0]) / columns
    points: Points = []
    start = first
    for column in range(columns):
        edge = x_range[0] + (column + 1) * width
        end = last if column == columns - 1 else bisect_left(curve.xs, edge, start, last)
        if end == start:
            continue
        values = curve.ys[start:end]
        start = end
        low, high, total = min(values), max(values), sum(values)
        if not math.isfinite(total):  # rare: only then look at each value
            finite = [value for value in values if math.isfinite(value)]
            if not finite:
                points.append((edge, math.nan))
                continue
            low, high, total, values = min(finite), max(finite), sum(finite), finite
        middle = edge - width / 2
        if curve.style == "band":
            points += [(middle - width / 4, low), (middle + width / 4, high)]
        else:
            points.append((middle, total / len(values)))
    return _runs(points)


def _bars(curve: Curve, x_range: tuple[float, float], bars: int) -> list[Points]:
    width = (x_range[1] - x_range[0]) / bars
    sums = [0.0] * bars
    for x, y in zip(curve.xs, curve.ys, strict=True):
        if x_range[0] <= x <= x_range[1] and math.isfinite(y):
            sums[min(bars - 1, int((x - x_range[0]) / width))] += y
    points = [(x_range[0] + (n + 0.5) * width, y) for n, y in enumerate(sums) if y]
    return [points] if points else []


def _runs(points) -> list[Points]:
    runs: list[Points] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def nice_ticks(low: float, high: float, at_most: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`, at most
    `at_most` of them; the outer two where every step gives too few or too many."""
    if not high > low or at_most < 1:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    ticks: list[float] = []
    for step in (10 * power, 5 * power, 2 * power, power):
        first = math.ceil(low / step - 1e-9)
        finer = [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
        if len(finer) > at_most:
            if len(ticks) < min(2, at_most):
                ticks = [finer[0], finer[-1]][:at_most]
            break
        ticks = finer
    return ticks


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels with the same, and no more than needed, decimals: 0.5 1.0 1.5; 800 1200; 10k 12k."""
    largest = max((abs(tick) for tick in ticks), default=0)
    least = 10 if largest < 1e4 else 1  # 1200 is easier to read than 1.2k
    size, letter = next(((s, c) for s, c in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if largest >= s * least), (1.0, ""))
    gap = min((b - a for a, b in pairwise(ticks)), default=largest) / size
    decimals = 0 if gap <= 0 else min(4, max(0, math.ceil(-math.log10(gap) - 1e-9)))
    return ["0" if tick == 0 else f"{tick / size:.{decimals}f}{letter}" for tick in ticks]


def _log_ticks(low: float, high: float, at_most: int) -> list[float]:
    """Decimal logarithms of round numbers between 10**low and 10**high."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [math.log10(m) + power for power in range(math.floor(low), math.ceil(high) + 1) for m in steps]
        ticks = [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]
        if len(ticks) <= at_most + 1:
            break
    return ticks if len(ticks) > 1 else [low, high]


def _y_range(runs: Sequence[Points], data: PlotData) -> tuple[float, float]:
    values = [y for points in runs for _, y in points]
    low, high = min(values), max(values)
    if data.y_from_zero:
        low = min(0.0, low)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (low if data.y_from_zero else low - pad), high + pad


Runs = list[tuple[str, str]]
"""One line of a plot: pieces of text, each with its colour `#rrggbb`, or empty for none."""


def draw_plot(data: PlotData, width: int, height: int, axis_color: str) -> list[Runs] | None:
    """The lines of a plot of `width` x `height` cells; None where there is nothing to draw."""
    columns = width - LABEL_CELLS - 1
    if columns < 8 or height < 3:
        return None
    change: Callable[[float], float] = (lambda y: math.log10(y)) if data.y_log else (lambda y: y)
    drawn: list[tuple[Curve, Points]] = []
    for curve in data.curves:
        for run in decimate(curve, data.x_range, columns):
            points = [(x, change(y)) for x, y in run if y > 0 or not data.y_log]
            if points:
                drawn.append((curve, points))
    if not drawn:
        return None
    y_range = _y_range([points for _, points in drawn], data)
    return _coloured_lines(_build(data, drawn, y_range, (width, height), axis_color))


_COLOR = re.compile(r"\x1b\[([0-9;]*)m")


def _coloured_lines(text: str) -> list[Runs]:
    """Take plotext's text apart: it knows resets and 24-bit foregrounds only (a general ANSI parser
    costs as much as drawing the plot)."""
    lines = []
    for line in text.rstrip("\n").split("\n"):
        runs: Runs = []
        color = ""
        for position, piece in enumerate(_COLOR.split(line)):
            if position % 2:
                _, _, rgb = piece.partition("38;2;")
                color = "#" + bytes(map(int, rgb.split(";"))).hex() if rgb else ""
            elif piece:
                runs.append((piece, color))
        lines.append(runs)
    return lines


def _build(
    data: PlotData,
    drawn: Sequence[tuple[Curve, Points]],
    y_range: tuple[float, float],
    size: tuple[int, int],
    axis_color: str,
) -> str:
    import plotext

    def pixel(color: str):
        return plotext.pixel(foreground=tuple(bytes.fromhex(color[1:])))

    figure = plotext.figure
    figure.clear()
    plotext.terminal.limit(False, False)  # what it takes for the terminal need not be ours
    figure.plot_size(*size)
    plotext.add_theme("evenfall", text=pixel(axis_color))
    figure.theme("evenfall")
    figure.canvas("default")  # no background: the screen's own shows
    figure.axes(False, axis="x", side="upper")
    figure.axes(False, axis="y", side="right")
    for curve, points in drawn:
        xs, ys = zip(*points, strict=True)
        marker = plotext.marker(curve.glyph, pixel=pixel(curve.color))
        signal = figure.signal(list(xs), list(ys), marker=marker)
        bars = curve.style == "bars"
        figure.draw(signal.fillx() if bars else signal.lines(curve.style != "points"))
    for x, glyph, color in data.marks:
        if data.x_range[0] <= x <= data.x_range[1]:
            marker = plotext.marker(glyph, pixel=pixel(color))
            figure.draw(figure.signal([x], [y_range[0]], marker=marker))
    ticks = (_log_ticks if data.y_log else nice_ticks)(*y_range, max(2, size[1] // 3))
    labels = tick_labels([10**tick for tick in ticks] if data.y_log else ticks)
    ruler = figure.ruler("y", "left").lim(*y_range)
    ruler.ticks(ticks, labels=[label.rjust(LABEL_CELLS) for label in labels])
    x_ticks = nice_ticks(*data.x_range, max(2, size[0] // 12))
    ruler = figure.ruler("x", "lower").lim(*data.x_range)
    ruler.ticks(x_ticks, labels=tick_labels(x_ticks))
    return figure.build().string()
