"""Small widgets of one or a few lines that change often and never cause a new layout."""

from collections.abc import Sequence

from textual.app import RenderResult
from textual.content import Content
from textual.widget import Widget


class Line(Widget):
    """One line: something on the left, something on the right, the left one cut where they meet."""

    DEFAULT_CSS = "Line { height: 1; width: 1fr; padding: 0 1; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._left = self._right = Content("")

    def set_data(self, left: Content, right: Content) -> None:
        if not (left.is_same(self._left) and right.is_same(self._right)):
            self._left, self._right = left, right
            self.refresh()

    def render(self) -> RenderResult:
        room = self.content_size.width - self._right.cell_length
        left = self._left.truncate(max(0, room - 1), ellipsis=True)
        return left + Content(" " * max(0, room - left.cell_length)) + self._right


class ProgressLine(Widget):
    """`before ━━━━╺── after`: the bar takes what room the texts leave."""

    DEFAULT_CSS = "ProgressLine { height: 1; width: 1fr; padding: 0 1; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._data: tuple[str, float | None, tuple[str, ...]] = ("", None, ())

    def set_data(self, before: str, fraction: float | None, after: Sequence[str]) -> None:
        """`fraction` is from 0 to 1, or None where it is not known; of `after`, the last ones give
        way first."""
        data = (before, fraction, tuple(after))
        if data != self._data:
            self._data = data
            self.refresh()

    def render(self) -> RenderResult:
        before, fraction, after = self._data
        width = self.content_size.width
        kept = list(after)
        while kept and len(before) + 2 + sum(len(text) + 2 for text in kept) + 12 > width:
            kept.pop()
        tail = "".join(f"  {text}" for text in kept)
        line = Content.styled(before, "bold")
        cells = min(60, width - len(before) - 1 - len(tail))
        if fraction is not None and cells > 4:
            done = max(0.0, min(1.0, fraction)) * cells
            full = int(done)
            half = "╸" if done - full >= 0.5 else ""
            rest = "─" * (cells - full - len(half))
            line += Content(" ") + Content.styled("━" * full + half, "$accent")
            line += Content.styled(rest, "$line")
        return line + Content(tail)


class Facts(Widget):
    """Rows of a name and a value, under a rule with a title."""

    DEFAULT_CSS = """
    Facts { height: auto; width: 1fr; padding: 0 1; border-top: solid $line;
        border-title-color: $text; }
    """

    def __init__(self, title: str, *, id: str) -> None:
        super().__init__(id=id)
        self.border_title = Content.styled(f" {title} ", "bold")
        self._rows: list[tuple[str, Content]] = []

    def set_data(self, rows: Sequence[tuple[str, Content]]) -> None:
        """Values are cut at the widget's width."""
        same = len(rows) == len(self._rows) and all(
            name == old_name and value.is_same(old)
            for (name, value), (old_name, old) in zip(rows, self._rows, strict=True)
        )
        if not same:
            anew = len(rows) != len(self._rows)
            self._rows = list(rows)
            self.refresh(layout=anew)

    def render(self) -> RenderResult:
        width = max((len(name) for name, _ in self._rows), default=0) + 2
        room = max(1, self.content_size.width - width)
        lines = [
            Content.styled(name.ljust(width), "$text-muted") + value.truncate(room, ellipsis=True)
            for name, value in self._rows
        ]
        return Content("\n").join(lines)

    def get_content_height(self, container, viewport, width: int) -> int:
        del container, viewport, width
        return max(1, len(self._rows))
