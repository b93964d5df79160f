"""The curves of Train: loss, speed and memory, as what a plot draws."""

import math
from dataclasses import dataclass

from textual.content import Content

from ...engine.run.progress import LOSS_STEPS, RunProgress
from ..state.history import History
from ..state.story import count_text, loss_text
from ..widgets.plot import Curve, PlotData


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of the curves, `#rrggbb`, from the theme."""

    band: str
    smooth: str
    held_out: str
    change: str
    lost: str
    rate: str
    memory: str


def shown_range(history: History, total: int | None, window: int | None) -> tuple[float, float]:
    """The steps that the plots show."""
    last = history.steps[-1]
    if window is None:
        return min(history.steps[0], 0.0), max(float(total or 0), last, 2.0)
    return max(history.steps[0], last - window + 1), max(last, history.steps[0] + 1)


def loss_plot(
    history: History,
    progress: RunProgress,
    colors: Palette,
    window: int | None,
    y_log: bool,
) -> PlotData | None:
    if not history.steps:
        return None
    done = [one for one in progress.evaluations if math.isfinite(one.loss)]
    held_out = Curve(
        xs=[float(one.step) for one in done],
        ys=[one.loss for one in done],
        color=colors.held_out,
        style="points",
        glyph="◆",
    )
    marks = [(float(change.step), "▲", colors.change) for change in progress.rate_changes]
    marks += [(step, "✗", colors.lost) for step in history.lost[-200:]]
    return PlotData(
        curves=[
            Curve(xs=history.steps, ys=history.loss, color=colors.band, style="band"),
            Curve(xs=history.steps, ys=history.smooth, color=colors.smooth),
            held_out,
        ],
        x_range=shown_range(history, progress.total_steps, window),
        y_log=y_log,
        marks=marks,
    )


def loss_title(history: History, progress: RunProgress, colors: Palette, window: int | None, y_log: bool) -> Content:
    """The figures: the run's own loss (the mean of its last steps), then the curves."""
    parts = [Content.styled("loss", "bold")]
    if progress.loss is not None:
        parts = [Content.styled(f"loss {loss_text(progress.loss)} (last {LOSS_STEPS})", "bold")]
    if history.steps:
        parts.append(Content.styled(f"step {loss_text(history.loss[-1])}", colors.band))
        parts.append(Content.styled("smoothed", colors.smooth))  # a curve; its end is no figure
    if last := progress.evaluation:
        text = f"◆ eval {loss_text(last.loss)} at {last.step}"
        parts.append(Content.styled(text, colors.held_out))
    if progress.rate_changes:
        parts.append(Content.styled("▲ lr", colors.change))
    if history.lost:
        parts.append(Content.styled(f"✗ {len(history.lost)} skipped", colors.lost))
    if window:
        parts.append(Content.styled(f"{window} steps", "$text-muted"))
    if y_log:
        parts.append(Content.styled("log", "$text-muted"))
    return Content("  ").join(parts)


def rate_plot(history: History, progress: RunProgress, colors: Palette, window: int | None) -> PlotData | None:
    if not history.steps:
        return None
    x_range = shown_range(history, progress.total_steps, window)
    return PlotData(
        curves=[Curve(xs=history.steps, ys=history.rate, color=colors.rate)],
        x_range=x_range,
        y_from_zero=True,
    )


def rate_title(progress: RunProgress, colors: Palette) -> Content:
    rate = progress.tokens_per_second
    shown = Content.styled(f"  {count_text(rate)}", colors.rate) if rate else Content("")
    return Content.styled("tok/s", "bold") + shown


def memory_plot(history: History, progress: RunProgress, colors: Palette, window: int | None) -> PlotData | None:
    if not history.steps:
        return None
    x_range = shown_range(history, progress.total_steps, window)
    return PlotData(
        curves=[Curve(xs=history.steps, ys=history.memory, color=colors.memory)],
        x_range=x_range,
        y_from_zero=True,
    )


def memory_title(progress: RunProgress, colors: Palette) -> Content:
    title = Content.styled("memory", "bold")
    if not progress.steps:
        return title
    last = progress.steps[-1]
    now = Content.styled(f"  {last.memory_gb:.1f} GB", colors.memory)
    rest = f"  peak {last.memory_peak_gb:.1f} of {last.memory_total_gb:.0f}"
    return title + now + Content.styled(rest, "$text-muted")
