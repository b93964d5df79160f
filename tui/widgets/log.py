"""The log panel: what happened, in plain words, the newest at the bottom."""

from collections.abc import Sequence

from rich.text import Text
from textual import events
from textual.content import Content
from textual.widgets import RichLog

from ..safe_text import safe_str

STEP_CELLS = 6


class LogPanel(RichLog):
    """Follows its end until it is scrolled up. A new width wraps all lines anew, and so does coming into view
    with lines that were told while there was no width."""

    DEFAULT_CSS = """
    LogPanel { height: 1fr; width: 1fr; border-top: solid $line; background: $background; padding: 0 1;
      border-title-color: $text; scrollbar-size-vertical: 1; }
    LogPanel:focus { border-top: solid $accent; background-tint: $foreground 0%; }
    """

    def __init__(self, *, id: str, keep: int = 400) -> None:
        super().__init__(id=id, max_lines=2000, min_width=1, wrap=True, markup=False, highlight=False)
        self.border_title = Content.styled(" log ", "bold")
        self._keep = keep
        self._told: list[tuple[int | None, str, str]] = []
        self._wrapped_at = 0

    def tell(self, lines: Sequence[tuple[int | None, str, str]]) -> None:
        """Add (step, untrusted text, `#rrggbb`) lines."""
        self._told = [*self._told, *lines][-self._keep :]
        width = self.scrollable_content_region.width
        if not width or width != self._wrapped_at:  # hidden, or not laid out yet
            self._wrapped_at = 0
            return
        follow = self.is_vertical_scroll_end
        for line in lines:
            self._write(*line, follow)

    def forget(self) -> None:
        """Begin anew, for another run."""
        self._told.clear()
        self.clear()

    def _write(self, step: int | None, text: str, color: str, follow: bool) -> None:
        number = "" if step is None else str(step)
        muted = self.app.theme_variables["text-muted"]
        line = Text.assemble((f"{number:>{STEP_CELLS - 1}} ", muted), (safe_str(text, 400), color), overflow="fold")
        self.write(line, scroll_end=follow)

    def on_resize(self, event: events.Resize) -> None:
        del event
        self._wrap_anew()

    def on_show(self) -> None:
        self._wrap_anew()

    def _wrap_anew(self) -> None:
        width = self.scrollable_content_region.width
        if width and width != self._wrapped_at:
            self._wrapped_at = width
            self.clear()
            for line in self._told:
                self._write(*line, True)
