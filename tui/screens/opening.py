"""What is seen while the app takes up the run that it was opened for: Train's frame, before the engine is there."""

from textual.app import ComposeResult
from textual.widgets import Static

from ..safe_text import safe_str
from .base import EvenfallScreen


class OpeningScreen(EvenfallScreen):
    """Stands in for Train until the engine is imported, which takes longer than a paint."""

    NAME = "train"

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def compose_body(self) -> ComposeResult:
        yield Static(f"opening {safe_str(self._run, 60)} …", markup=False)

    def why_not(self, verb: str) -> str | None:
        del verb
        return "the run is being opened"
