"""Chart: a plot that is drawn anew only when it is given new data or another size."""

from textual.app import RenderResult
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from ..safe_text import safe_text
from .plot import PlotData, draw_plot


class Chart(Widget):
    """A plot under a rule that bears its title. Drawing takes some milliseconds: give it new data
    once a second at most."""

    DEFAULT_CSS = """
    Chart { height: 1fr; width: 1fr; border-top: solid $line; border-title-color: $text; }
    """

    def __init__(self, empty: str, *, id: str) -> None:
        """`empty` is shown while there is nothing to draw."""
        super().__init__(id=id)
        self._empty = empty
        self._data: PlotData | None = None
        self._title: Content | None = None
        self._drawn: Content | None = None
        self._drawn_for: tuple[PlotData | None, Size] | None = None
        self._axis_color = ""

    def set_data(self, data: PlotData | None, title: Content, empty: str | None = None) -> None:
        """Show this from now on."""
        self._data = data
        self._empty = self._empty if empty is None else empty
        if self._title is None or not title.is_same(self._title):
            self._title = title
            self.border_title = Content(" ") + title + Content(" ")
        self.refresh()

    def render(self) -> RenderResult:
        size = self.content_size
        if self._drawn_for is None or self._drawn_for != (self._data, size):
            self._drawn_for = (self._data, size)
            axis = self.app.theme_variables["text-disabled"]
            drawn = draw_plot(self._data, *size, axis) if self._data else None
            self._drawn = Content.from_rich_text(drawn) if drawn else None
        if self._drawn is not None:
            return self._drawn
        lines = max(0, size.height - 1) // 2
        text = safe_text(self._empty, style="$text-muted")
        pad = max(0, size.width - text.cell_length) // 2
        return Content("\n" * lines + " " * pad) + text
