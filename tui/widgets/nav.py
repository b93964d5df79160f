"""The strip on top: where you are, what is done, what runs, and how full the machine is."""

from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from ..keys import SCREENS, ScreenName

MARKS = {"done": "✓", "running": "●", "attention": "!", "": " "}
"""Mark of a screen -> its glyph."""


class NavStrip(Widget):
    """One line: `1 Model ✓  2 Data ✓ ▌3 Train ●▐ ...` and a memory gauge on the right."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "nav--here", "nav--other", "nav--done", "nav--running", "nav--attention", "nav--gauge"
    }  # fmt: skip
    DEFAULT_CSS = """
    NavStrip {
        height: 1; width: 1fr; background: $panel; color: $text;
        & > .nav--here { color: $background; background: $accent; text-style: bold; }
        & > .nav--other { color: $text; }
        & > .nav--done { color: $success; }
        & > .nav--running { color: $accent; }
        & > .nav--attention { color: $error; text-style: bold; }
        & > .nav--gauge { color: $text-muted; }
    }
    """

    @dataclass
    class Chosen(Message):
        """A screen's name was clicked."""

        screen_name: ScreenName

    def __init__(self, here: ScreenName) -> None:
        super().__init__(id="nav")
        self._here = here
        self._marks: dict[ScreenName, str] = {}
        self._memory: tuple[float, float] | None = None
        self._spans: list[tuple[int, int, ScreenName]] = []

    def set_data(self, marks: dict[ScreenName, str], memory_gb: tuple[float, float] | None) -> None:
        """Marks by screen (keys of MARKS) and memory used and in all, in GB, where known."""
        if memory_gb is not None:  # what is not shown shall cause no redrawing
            memory_gb = (round(memory_gb[0], 1), memory_gb[1])
        if (marks, memory_gb) != (self._marks, self._memory):
            self._marks, self._memory = marks, memory_gb
            self.refresh()

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"nav--{name}")

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        narrow = width < 100
        base = self.rich_style
        segments: list[Segment] = [Segment(" ", base)]
        self._spans = []
        position = 1
        for number, name in enumerate(SCREENS, 1):
            here = name == self._here
            mark = self._marks.get(name, "")
            style = self._style("here" if here else "other")
            parts = [(f" {number} {name.capitalize()} ", style)]
            if mark:
                parts.append((f"{MARKS[mark]} ", style if here else style + self._style(mark)))
            length = sum(len(text) for text, _ in parts)
            self._spans.append((position, position + length, name))
            segments += [Segment(text, part) for text, part in parts]
            position += length
            if not narrow:
                segments.append(Segment(" ", base))
                position += 1
        gauge = self._gauge(width - position - 1, narrow)
        segments.append(Segment(" " * max(0, width - position - len(gauge) - 1), base))
        segments.append(Segment(gauge + " ", base + self._style("gauge")))
        return Strip(segments).adjust_cell_length(width, base)

    def _gauge(self, room: int, narrow: bool) -> str:
        if self._memory is None:
            return ""
        used, total = self._memory
        figures = f"{used:.1f}/{total:.0f} GB"
        cells = 8
        filled = min(cells, round(cells * used / total)) if total > 0 else 0
        bar = f"mem ▕{'█' * filled}{'▁' * (cells - filled)}▏ "
        if not narrow and len(bar) + len(figures) <= room:
            return bar + figures
        return figures if len(figures) <= room else ""

    def on_click(self, event: events.Click) -> None:
        for start, end, name in self._spans:
            if start <= event.x < end:
                self.post_message(self.Chosen(name))
