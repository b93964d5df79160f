"""Passing notices: what was said lately, and the one way to say it.

Textual's own toasts parse markup and lie over what is under them; these are plain text in a line of their own
(`widgets/notice_line.py`). They belong to the screen that they were said on and go with it.
"""

import time
from typing import TYPE_CHECKING, Protocol, cast

from ..safe_text import safe_str
from ..widgets.notice_line import Notice, Severity

if TYPE_CHECKING:
    from textual.app import App

SECONDS: dict[Severity, float] = {"information": 4.0, "warning": 8.0, "error": 8.0}


class Notices:
    """What was said and is not over, the newest first; what is said again is said once."""

    def __init__(self) -> None:
        self._said: list[Notice] = []

    def say(self, text: str, severity: Severity) -> None:
        self._said = [one for one in self._said if one.text != text]
        self._said.insert(0, Notice(text, severity, time.monotonic() + SECONDS[severity]))

    def clear(self) -> None:
        self._said = []

    def current(self) -> list[Notice]:
        """Those to be shown now."""
        now = time.monotonic()
        self._said = [one for one in self._said if one.until > now]
        return list(self._said)


class _Speaker(Protocol):
    """An app that shows notices."""

    def say(self, text: str, severity: Severity) -> None: ...


def notice(app: "App[str]", text: object, severity: Severity = "information") -> None:
    """Show untrusted text for a few seconds, longer where something went wrong."""
    said = safe_str(text, 500, lines=True)
    if said.strip():
        cast("_Speaker", app).say(said, severity)
