"""The one way to show a passing notice: Textual's own `notify` parses markup, this never does."""

from typing import TYPE_CHECKING, Literal

from ..safe_text import safe_str

if TYPE_CHECKING:
    from textual.app import App

Severity = Literal["information", "warning", "error"]


def notice(
    app: "App[str]",
    text: object,
    severity: Severity = "information",
) -> None:
    """Show untrusted text for a few seconds, longer where something went wrong."""
    seconds = 4.0 if severity == "information" else 8.0
    app.notify(safe_str(text, 500, lines=True), severity=severity, timeout=seconds, markup=False)
