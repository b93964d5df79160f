"""One-line controls: a text field that cannot carry control bytes, and a choice among words.

`TextField` is an Input whose value passes `safe_str`, so that a pasted or stored escape sequence is shown
instead of obeyed. It tells its screen once, when the user is done (enter, or leaving the field), and not
at every key: half a number is not an error yet. What the screen refuses stays for correction, coloured,
and escape brings back what stood.

`Choice` shows its words on one line, `‹ nf4 ›`, and is turned with the arrow keys: unlike a drop-down it
needs no second surface, which keeps 80x24 usable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Input

from ..safe_text import safe_str, safe_text
from .too_small import is_too_small


class TextField(Input):
    """A compact Input that posts `Committed` when its text was changed and then entered or left."""

    DEFAULT_CSS = """
    TextField { width: 1fr; background: $panel; padding: 0 1; }
    TextField.-textual-compact { padding: 0 1; }
    TextField.-bad { background: $error 25%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give_up", "Give up", show=False)]

    @dataclass
    class Committed(Message):
        """The user is done with the field."""

        field: "TextField"
        text: str
        entered: bool
        """By enter (True), or by leaving the field (False)."""

        @property
        def control(self) -> "TextField":
            return self.field

    @dataclass
    class GivenUp(Message):
        """Escape took back a text that had been refused."""

        field: "TextField"

        @property
        def control(self) -> "TextField":
            return self.field

    def __init__(self, value: str = "", *, placeholder: str = "", id: str | None = None, draft: bool = False) -> None:
        """`draft`: text that is being written stays when escape leaves the field, and is not selected when the focus is
        back, so that typing goes on with it; else what stood comes back."""
        self._told = safe_str(value)
        """What the screen knows of."""
        self._stands = self._told
        """What escape brings back."""
        self._draft = draft
        super().__init__(value, placeholder=placeholder, id=id, compact=True, select_on_focus=not draft)

    def validate_value(self, value: str) -> str:
        return safe_str(value)

    def put(self, text: str) -> None:
        """Show `text` as the value that stands, telling nobody."""
        self._told = self._stands = safe_str(text)
        with self.prevent(Input.Changed):
            self.value = text
        self.set_class(False, "-bad")

    def action_give_up(self) -> None:
        if not self._draft and self.value != self._stands:
            refused = self._told != self._stands
            self.value = self._told = self._stands
            self.mark_bad(False)
            if refused:
                self.post_message(self.GivenUp(self))
        raise SkipAction  # whoever else has the key takes it: the screen, to leave the field

    @property
    def typing(self) -> bool:
        """Whether it holds what the screen has not been told yet."""
        return self.has_focus and self.value != self._told

    def leave(self) -> None:
        """Commit what was typed, as losing the focus does; text that is being written waits for enter."""
        if not self._draft and self.value != self._told:
            self._commit(entered=False)

    def refuse(self, stands: str) -> None:
        """Colour the field; its text stays for correction, and escape brings back `stands`."""
        self._stands = safe_str(stands)
        self.mark_bad(True)

    def mark_bad(self, bad: bool) -> None:
        """Colour the field as refused, or not."""
        self.set_class(bad, "-bad")

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self._commit(entered=True)

    @on(Input.Blurred)
    def _left(self, event: Input.Blurred) -> None:
        event.stop()
        if self.value != self._told and self._was_left:
            self._commit(entered=False)

    @property
    def _was_left(self) -> bool:
        """Whether the user went elsewhere: not so where the window is too small or another one is in front."""
        return self.app.app_focus and not is_too_small(self.app.size)

    def _commit(self, *, entered: bool) -> None:
        self._told = self._stands = self.value
        self.post_message(self.Committed(self, self.value, entered))


class Choice(Widget, can_focus=True):
    """One of a few words, turned with ← and → (or space)."""

    DEFAULT_CSS = """
    Choice { width: auto; height: 1; padding: 0 1; background: $panel; color: $foreground; }
    Choice:focus { background: $accent; color: $background; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,space,enter", "turn(1)", "Next", show=False),
        Binding("left", "turn(-1)", "Previous", show=False),
    ]
    value: reactive[str] = reactive("", layout=True)

    @dataclass
    class Changed(Message):
        """The user turned the choice."""

        choice: "Choice"
        value: str

        @property
        def control(self) -> "Choice":
            return self.choice

    def __init__(self, options: Sequence[tuple[str, str]], *, id: str | None = None) -> None:
        """`options` are (value, shown word) pairs; the first stands at the start."""
        super().__init__(id=id)
        self._options = list(options)
        if self._options:
            self.set_reactive(Choice.value, self._options[0][0])

    def set_options(self, options: Sequence[tuple[str, str]], value: str) -> None:
        """Offer other words and show `value` as the one that stands."""
        self._options = list(options)
        self.put(value)
        self.refresh(layout=True)

    def put(self, value: str) -> None:
        """Show `value` as the one that stands, telling nobody."""
        self.value = value

    def get_content_width(self, container: object, viewport: object) -> int:
        return self.render().cell_length

    def render(self) -> Content:
        word = next((word for value, word in self._options if value == self.value), self.value)
        if len(self._options) < 2:
            return safe_text(word, 40)
        return Content("‹ ") + safe_text(word, 40) + Content(" ›")

    def on_click(self) -> None:
        self.action_turn(1)

    def action_turn(self, step: int) -> None:
        values = [value for value, _ in self._options]
        if len(values) < 2:
            return
        at = values.index(self.value) if self.value in values else -step
        self.value = values[(at + step) % len(values)]
        self.post_message(self.Changed(self, self.value))


class Tick(Widget, can_focus=True):
    """`[x] label`: on or off, told by the mark and not by its colour."""

    DEFAULT_CSS = """
    Tick { width: auto; height: 1; padding: 0 1; }
    Tick:focus { background: $accent; color: $background; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("space,enter", "turn", "Tick", show=False)]
    value: reactive[bool] = reactive(False)

    @dataclass
    class Changed(Message):
        """The user ticked it, or took the tick away."""

        tick: "Tick"
        value: bool

        @property
        def control(self) -> "Tick":
            return self.tick

    def __init__(self, label: str, value: bool, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._label = label
        self.set_reactive(Tick.value, value)

    def get_content_width(self, container: object, viewport: object) -> int:
        return self.render().cell_length

    def render(self) -> Content:
        return Content(f"[{'x' if self.value else ' '}] {self._label}")

    def on_click(self) -> None:
        self.action_turn()

    def action_turn(self) -> None:
        self.value = not self.value
        self.post_message(self.Changed(self, self.value))
