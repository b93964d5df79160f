"""JobLine: what a job is doing, how far it is, and how to end it, on one line."""

from textual.content import Content
from textual.widget import Widget

from ..safe_text import safe_text

_BAR = 24


class JobLine(Widget):
    """`reading rows ━━━━━━╸──────── 45 %  esc cancels`; hidden while there is nothing to tell."""

    DEFAULT_CSS = "JobLine { height: 1; display: none; }"

    def __init__(self, hint: str = "", *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._hint = hint
        self._message = ""
        self._fraction: float | None = None

    def set_data(self, message: str, fraction: float | None = None) -> None:
        """An empty message hides the line."""
        if (message, fraction) == (self._message, self._fraction):
            return
        self._message, self._fraction = message, fraction
        self.display = bool(message)
        self.refresh()

    def render(self) -> Content:
        parts = [Content.styled("◌ ", "$accent"), safe_text(self._message, 200)]
        if self._fraction is not None:
            fraction = min(1.0, max(0.0, self._fraction))
            done = int(fraction * _BAR)
            parts += [
                Content.styled("  " + "━" * done, "$accent"),
                Content.styled("─" * (_BAR - done), "$border-blurred"),
                Content(f" {100 * fraction:.0f} %"),
            ]
        if self._hint:
            parts.append(Content.styled(f"   {self._hint}", "$text-muted"))
        return Content("").join(parts)
