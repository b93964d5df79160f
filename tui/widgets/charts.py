"""Chart: a plot that is drawn anew only when it is given new data or another size."""

from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from ..safe_text import safe_str
from .plot import PlotData, Runs, draw_plot


class Chart(Widget):
    """A plot under a rule that bears its title. Drawing takes some milliseconds each time that it is
    given data: give it new data each few seconds, not at each step."""

    DEFAULT_CSS = """
    Chart { height: 1fr; width: 1fr; border-top: solid $line; border-title-color: $text; }
    """

    def __init__(self, empty: str, *, id: str) -> None:
        """`empty` is shown while there is nothing to draw."""
        super().__init__(id=id)
        self._empty = empty
        self._data: PlotData | None = None
        self._title: Content | None = None
        self._strips: list[Strip] = []
        self._drawn_for: Size | None = None

    def set_data(self, data: PlotData | None, title: Content, empty: str | None = None) -> None:
        """Show this from now on."""
        self._data = data
        self._drawn_for = None  # not by comparing: the lists in `data` may have grown in place
        self._empty = self._empty if empty is None else empty
        if self._title is None or not title.is_same(self._title):
            self._title = title
            self.border_title = Content(" ") + title + Content(" ")
        self.refresh()

    def render_lines(self, crop: Region) -> list[Strip]:
        size = self.content_size
        if self._drawn_for != size:
            self._drawn_for = size
            axis = self.app.theme_variables["text-disabled"]
            drawn = draw_plot(self._data, *size, axis) if self._data else None
            self._strips = self._strips_of(self._hint() if drawn is None else drawn)
        return super().render_lines(crop)

    def _strips_of(self, lines: list[Runs]) -> list[Strip]:
        base, width = self.rich_style, self.content_size.width
        return [
            Strip(Segment(text, base + _style(color) if color else base) for text, color in runs).adjust_cell_length(
                width, base
            )
            for runs in lines
        ]

    def _hint(self) -> list[Runs]:
        width, height = self.content_size
        muted = self.app.theme_variables["text-muted"]
        return [[]] * ((height - 1) // 2) + [[(safe_str(self._empty, 200).center(width), muted)]]

    def render_line(self, y: int) -> Strip:
        if y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.content_size.width, self.rich_style)


@lru_cache(maxsize=64)
def _style(color: str) -> Style:
    return Style(color=color)
