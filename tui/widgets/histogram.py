"""Histogram: how long the rows are, as bars of text.

Ranges double (0-64, 64-128, ...), because lengths spread over orders of magnitude, and end at the limit:
what lies above it is cut or dropped, so it gets a bar and a colour of its own. Bars are eighth-blocks: at
12 columns they still tell 1 % from 5 %, which a plot's axes would leave no room for.
"""

import itertools
from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def ranges(lengths: Sequence[int], limit: int, bars: int) -> list[tuple[int, int | None, int]]:
    """(from, below or None for open, count) of at most `bars` ranges, the last above `limit`.

    The ranges double downwards from `limit`, so that one of them ends exactly there.
    """
    edges = [limit + 1]
    while len(edges) < max(1, bars - 1) and edges[0] > 16:
        edges.insert(0, (edges[0] - 1) // 2 + 1)
    edges.insert(0, 0)
    found: list[tuple[int, int | None, int]] = []
    for low, high in itertools.pairwise(edges):
        found.append((low, high, sum(low <= n < high for n in lengths)))
    while len(found) > 1 and not found[0][2]:
        found.pop(0)
    while len(found) > 1 and not found[-1][2]:
        found.pop()
    above = sum(n > limit for n in lengths)
    return [*found, (limit + 1, None, above)] if above else found


class Histogram(Widget):
    """Bars of row lengths; `set_data` with none shows nothing."""

    DEFAULT_CSS = "Histogram { height: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lengths: tuple[int, ...] = ()
        self._limit = 0

    def set_data(self, lengths: Sequence[int], limit: int) -> None:
        """`lengths` in tokens, of rows before cutting; `limit` is max_length in tokens."""
        self._lengths, self._limit = tuple(sorted(lengths)), limit
        self.refresh()

    def render(self) -> Content:
        if not self._lengths or self.size.height < 2:
            return Content("")
        p50, p95 = (self._lengths[int((len(self._lengths) - 1) * q)] for q in (0.5, 0.95))
        figures = f"half ≤ {p50:,} · 95 % ≤ {p95:,} · longest {self._lengths[-1]:,}"
        lines = [Content.styled("length in tokens", "bold")]
        if self.size.height < 10:
            lines[0] += Content.styled(f"  {figures}", "$text-muted")
        else:
            lines += [Content.styled(figures, "$text-muted"), Content("")]
        bins = ranges(self._lengths, self._limit, min(10, self.size.height - len(lines)))
        labels = [f"{low:,}-{high - 1:,}" if high else f"> {low - 1:,}" for low, high, _ in bins]
        left = max(map(len, labels))
        room = max(4, self.size.width - left - 9)
        most = max(count for _, _, count in bins) or 1
        for label, (_, high, count) in zip(labels, bins, strict=True):
            share = 100 * count / len(self._lengths)
            shown = f" {share:.0f} %" if share >= 1 or not count else " <1 %"
            style = "$accent" if high else "$warning"
            lines.append(
                Content.assemble(
                    (f"{label:>{left}} ", "$text-muted"),
                    (bar_of(count / most, room), style),
                    (shown, "" if high else "$warning"),
                )
            )
        return Content("\n").join(lines)


def bar_of(fraction: float, room: int) -> str:
    """A bar of blocks as long as a fraction of `room` columns; what is more than nothing is seen."""
    eighths = max(1, round(fraction * room * 8)) if fraction else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
