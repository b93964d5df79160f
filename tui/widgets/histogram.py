"""Histogram: how many rows are how long, with what lies above the limit in a colour of its own.

Lengths are those before anything is cut: what is above the limit is what is cut or left out. A tail of a few
rows would press all others into the first columns, so the axis ends a little behind the 99th of 100 rows.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from textual.content import Content

from ..value_text import share_text
from .charts import Chart
from .plot import Curve, PlotData


def length_plot(lengths: Sequence[int], limit: int, below: str, above: str) -> PlotData | None:
    """The plot of row lengths; None without any.

    Args:
        lengths: in tokens, sorted.
        limit: max_length, in tokens.
        below: colour of the rows that fit, `#rrggbb`.
        above: colour of those that do not.
    """
    if not lengths:
        return None
    usual = lengths[(len(lengths) - 1) * 99 // 100]
    end = min(lengths[-1], round(1.25 * max(usual, 16)))
    shown = [float(length) for length in lengths[: bisect_right(lengths, end)]]
    fit = bisect_right(shown, limit)
    share = 100 / len(lengths)
    return PlotData(
        curves=[
            Curve(xs=part, ys=[share] * len(part), color=color, style="bars")
            for part, color in ((shown[:fit], below), (shown[fit:], above))
        ],
        x_range=(0.0, float(max(end, 1))),
        y_from_zero=True,
        marks=((float(limit), "▲", above),),
    )


def length_title(lengths: Sequence[int], limit: int, percentiles: Mapping[str, int]) -> str:
    """What the plot shows, in figures.

    Args:
        lengths: sorted, not empty.
        percentiles: of `engine.data.findings.Statistics`.
    """
    named = (("half", "p50"), ("95 %", "p95"))
    title = "% of rows by tokens · " + " · ".join(f"{n} ≤ {percentiles[key]:,}" for n, key in named)
    title += f" · longest {percentiles['longest']:,}"
    above = len(lengths) - bisect_right(lengths, limit)
    return f"{title} · {share_text(above / len(lengths))} above {limit:,}" if above else title


class Histogram(Chart):
    """The lengths of rows."""

    def __init__(self, *, id: str) -> None:
        super().__init__("", id=id)

    def set_lengths(self, lengths: Sequence[int], limit: int, percentiles: Mapping[str, int]) -> None:
        """`lengths` in tokens, of rows before they are cut, sorted; `limit` is max_length in tokens."""
        colors = self.app.theme_variables
        plot = length_plot(lengths, limit, colors["accent"], colors["warning"])
        title = length_title(lengths, limit, percentiles) if lengths else ""
        self.set_data(plot, Content(title))
