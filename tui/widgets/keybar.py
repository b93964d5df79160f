"""The line at the bottom: the keys that work here now, made from the registry of verbs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

KEY_NAMES = {
    "question_mark": "?", "space": "space", "escape": "esc", "left_square_bracket": "[",
    "right_square_bracket": "]", "slash": "/", "comma": ",", "full_stop": ".", "minus": "-",
    "plus": "+", "equals_sign": "=", "ctrl+j": "^j", "ctrl+s": "^s", "up": "↑", "down": "↓",
    "left": "←", "right": "→", "page_up": "PgUp", "page_down": "PgDn",
    "pageup": "PgUp", "pagedown": "PgDn",
}  # fmt: skip
"""Textual's name of a key -> how it is shown; others are shown as they are."""


KEPT = ("help", "quit")
"""Verbs that are shown however narrow the screen."""


def shown_key(keys: str) -> str:
    """The first key of a comma list, as it is written on screen."""
    first = keys.split(",")[0]
    return KEY_NAMES.get(first, first.upper() if first[0] == "f" and first[1:].isdigit() else first)


@dataclass(frozen=True, kw_only=True)
class KeyItem:
    """One entry: the verb's id, its key as shown, its title, and whether it can be done now."""

    verb: str
    key: str
    title: str
    enabled: bool = True


class KeyBar(Widget):
    """Entries from left to right; a narrow screen leaves some out, but never `? Help`."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key", "keys--title", "keys--off"}
    DEFAULT_CSS = """
    KeyBar {
        height: 1; width: 1fr; background: $panel; color: $text-muted;
        & > .keys--key { color: $accent; text-style: bold; }
        & > .keys--title { color: $text; }
        & > .keys--off { color: $text-disabled; }
    }
    """

    @dataclass
    class Pressed(Message):
        """An entry was clicked."""

        verb: str

    def __init__(self) -> None:
        super().__init__(id="keys")
        self._items: tuple[KeyItem, ...] = ()
        self._spans: list[tuple[int, int, str]] = []

    def set_data(self, items: Sequence[KeyItem]) -> None:
        """What to show, the most useful first."""
        if tuple(items) != self._items:
            self._items = tuple(items)
            self.refresh()

    def _that_fit(self, width: int) -> list[KeyItem]:
        kept = list(self._items)
        excess = sum(len(item.key) + len(item.title) + 3 for item in kept) - width
        # What cannot be done now goes first, then the last entries, never the way out or the help.
        spare = [item for item in reversed(kept) if not item.enabled]
        spare += [item for item in reversed(kept) if item.enabled]
        for item in spare:
            if excess <= 0:
                break
            if item.verb not in KEPT:
                kept.remove(item)
                excess -= len(item.key) + len(item.title) + 3
        return kept

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.rich_style
        key, title, off = (base + self.get_component_rich_style(f"keys--{name}") for name in ("key", "title", "off"))
        segments = [Segment(" ", base)]
        self._spans = []
        position = 1
        for item in self._that_fit(width):
            text = f"{item.key} {item.title}"
            segments += [
                Segment(item.key, key if item.enabled else off),
                Segment(f" {item.title}", title if item.enabled else off),
                Segment("  ", base),
            ]
            self._spans.append((position, position + len(text), item.verb))
            position += len(text) + 2
        return Strip(segments).adjust_cell_length(width, base)

    def on_click(self, event: events.Click) -> None:
        for start, end, verb in self._spans:
            if start <= event.x < end:
                self.post_message(self.Pressed(verb))
