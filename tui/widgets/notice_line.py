"""NoticeLine: passing notices, in lines of their own that are there only while something is said.

It takes its lines from what lies above it, so that it covers nothing: no key, no field, no answer of a dialog.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from textual.content import Content
from textual.timer import Timer
from textual.widget import Widget

Severity = Literal["information", "warning", "error"]


@dataclass(frozen=True)
class Notice:
    """Something that was said, and until when it is shown, on the clock of `time.monotonic`."""

    text: str
    severity: Severity
    until: float


MARKS: dict[Severity, tuple[str, str]] = {
    "information": ("· ", "$accent"), "warning": ("! ", "$warning"), "error": ("✗ ", "$error"),
}  # fmt: skip


class NoticeLine(Widget):
    """Shows notices until each is over."""

    DEFAULT_CSS = """
    NoticeLine {
        display: none; height: auto; max-height: 3; width: 1fr; padding: 0 1; background: $surface; color: $text;
        &.-said { display: block; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._text = Content("")
        self._notices: list[Notice] = []
        self._timer: Timer | None = None

    def render(self) -> Content:
        return self._text

    def set_data(self, notices: Sequence[Notice]) -> None:
        """Show these, the newest first."""
        if list(notices) == self._notices:
            return
        self._notices = list(notices)
        lines = [Content.styled(*MARKS[one.severity]) + Content(one.text) for one in self._notices]
        self._text = Content("\n").join(lines)
        self.refresh(layout=True)
        self.set_class(bool(lines), "-said")
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._notices:
            first_over = min(one.until for one in self._notices)
            self._timer = self.set_timer(max(0.01, first_over - time.monotonic()), self._drop_what_is_over)

    def _drop_what_is_over(self) -> None:
        now = time.monotonic()
        self.set_data([one for one in self._notices if one.until > now])
