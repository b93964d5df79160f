"""Form: configuration keys as rows of name, control and, under the row at fault, what is wrong.

The form knows keys and texts only. It says which key got which text (`Form.Changed`); whoever listens
tries it and answers with `set_values` or `set_error`. A text that was refused stays in its field, under
its error, until it is corrected or escape takes it back (`Form.GivenUp`). The lines at the bottom describe the row
that has the focus, so that every key explains itself without a manual.

Rows stand in sections, and the field above them narrows them to those with the words typed into it. A value other than
the default is marked, and one key (`Form.Reset`) takes it back to the default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from ..safe_text import safe_str, safe_text
from .field import Choice, TextField


@dataclass(frozen=True, kw_only=True)
class FormRow:
    """One key of a form."""

    key: str
    title: str
    help: str
    """What it is and what it takes, for the lines at the bottom."""
    section: str = ""
    """The heading that it stands under, with the rows beside it."""
    choices: tuple[tuple[str, str], ...] = ()
    """(value, shown word) pairs; none: free text."""
    default: str = ""
    """The text of its default."""
    elsewhere: str = ""
    """Where it is set, if that is not here: then enter asks for it (`Form.Asked`)."""


class _Pointer(Widget, can_focus=True):
    """A value that is set elsewhere, and where."""

    DEFAULT_CSS = """
    _Pointer { width: 1fr; height: 1; padding: 0 1; }
    _Pointer:focus { background: $accent; color: $background; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "ask", "Go there", show=False)]

    @dataclass
    class Asked(Message):
        """Enter, or a click."""

        pointer: "_Pointer"

    def __init__(self, where: str) -> None:
        super().__init__()
        self._text, self._where = "", where

    def put(self, text: str) -> None:
        """Show the value that stands."""
        if text != self._text:
            self._text = text
            self.refresh()

    def render(self) -> Content:
        where = f"→ {self._where}"
        room = max(0, self.content_size.width - len(where) - 1)
        text = safe_text(self._text, 200).truncate(room, ellipsis=True)
        return text + Content(" " if self._text else "") + Content(where)

    def on_click(self) -> None:
        self.action_ask()

    def action_ask(self) -> None:
        self.post_message(self.Asked(self))


class _Row(Widget):
    """A row's name and control, and the error under them.

    It draws the name itself and has no widget for an error before there is one: a form has some sixty rows.
    """

    DEFAULT_CSS = """
    _Row { height: auto; layout: vertical; }
    _Row > TextField, _Row > Choice, _Row > _Pointer { margin-left: 31; }
    _Row > .row-error { color: $text-error; padding-left: 2; height: auto; }
    """

    def __init__(self, row: FormRow) -> None:
        super().__init__()
        self.row = row
        self._stands = ""
        self._changed = False
        self._error: Static | None = None
        self.control: Choice | TextField | _Pointer
        if row.elsewhere:
            self.control = _Pointer(row.elsewhere)
        else:
            self.control = Choice(row.choices) if row.choices else TextField()

    def compose(self) -> ComposeResult:
        yield self.control

    def render(self) -> Content:
        style = "bold $accent" if self.has_focus_within else "bold $text" if self._changed else "$text-muted"
        return Content.styled(f"{'•' if self._changed else ' '} {self.row.title}", style)

    @on(events.DescendantFocus)
    @on(events.DescendantBlur)
    def _other_focus(self) -> None:
        self.refresh()

    def put(self, text: str) -> None:
        self._stands = text
        if not isinstance(self.control, TextField) or not self.control.typing:
            self.control.put(text)
        if self._changed != (text != self.row.default):
            self._changed = not self._changed
            self.refresh()
        self.set_error("")

    def set_error(self, message: str) -> None:
        if message and self._error is None:
            self._error = Static(classes="row-error", markup=False)
            self.mount(self._error)
        if self._error is not None:
            self._error.update(safe_text(message, 400))
            self._error.display = bool(message)
        if isinstance(self.control, TextField):
            if message:
                self.control.refuse(self._stands)
            else:
                self.control.mark_bad(False)

    def matches(self, words: Sequence[str]) -> bool:
        """Whether each word stands in its key or its description."""
        return all(word in self.row.help.casefold() for word in words)


class _Rows(VerticalScroll, can_focus=False, inherit_bindings=False):
    """Rows that scroll with the focus: the arrows are the form's."""


class Form(Vertical):
    """A column of `FormRow`s under a field that narrows them."""

    DEFAULT_CSS = """
    Form > .form-find { height: 1; }
    Form > .form-find > Static { width: 9; color: $text-muted; }
    Form _Rows { height: 1fr; scrollbar-size-vertical: 1; }
    Form .form-section { height: 1; color: $accent; }
    Form TextField { max-width: 44; }
    Form .form-help { height: auto; min-height: 3; max-height: 7; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Row before", show=False),
        Binding("down", "move(1)", "Next row", show=False),
        Binding("pageup", "move(-10)", "Rows before", show=False),
        Binding("pagedown", "move(10)", "Next rows", show=False),
        Binding("ctrl+r", "reset", "Default", show=False),
    ]

    @dataclass
    class Changed(Message):
        """The user gave `key` the text `text`."""

        key: str
        text: str

    @dataclass
    class GivenUp(Message):
        """The user took back the text of `key` that had been refused."""

        key: str

    @dataclass
    class Reset(Message):
        """The user wants the default of `key`."""

        key: str

    @dataclass
    class Asked(Message):
        """The user wants to set `key`, which is set elsewhere."""

        key: str

    def __init__(self, rows: Sequence[FormRow], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._rows = {row.key: _Row(row) for row in rows}
        self._heads = {row.section: Static(Content(row.section), classes="form-section") for row in rows if row.section}

    def compose(self) -> ComposeResult:
        with Horizontal(classes="form-find"):
            yield Static("  find", markup=False)
            yield TextField(placeholder="words of a setting or of what it does")
        with _Rows():
            for section, rows in groupby(self._rows.values(), lambda row: row.row.section):
                if section:
                    yield self._heads[section]
                yield from rows
        yield Static("", classes="form-help", markup=False)

    @property
    def _find(self) -> TextField:
        return self.query_one(".form-find", Horizontal).query_one(TextField)

    def set_values(self, values: Mapping[str, str], refused: Mapping[str, str]) -> None:
        """Show the texts that stand.

        A field that is being typed in keeps what was typed, and one of a key in `refused` (key -> why)
        what it holds.
        """
        for key, text in values.items():
            if key in refused and not self._rows[key].row.elsewhere:
                self._rows[key].set_error(refused[key])
            else:
                self._rows[key].put(text)

    def set_error(self, key: str, message: str) -> None:
        """Show why the text of `key` was refused; an empty message clears it."""
        self._rows[key].set_error(message)

    def focus_first(self) -> None:
        """Begin where a setting is looked for, with all of them."""
        if self._find.value:
            self._show_all()
        self._find.focus()

    def end_search(self) -> bool:
        """Show all rows again; False where none was searched for with the focus on the search."""
        if not (self._find.has_focus and self._find.value):
            return False
        self._show_all()
        return True

    def _show_all(self) -> None:
        self._find.put("")
        self._show_matching("")

    # Moving and narrowing

    def _shown(self) -> list[_Row]:
        return [row for row in self._rows.values() if row.display]

    @property
    def _at(self) -> _Row | None:
        """The row that has the focus."""
        return next((row for row in self._rows.values() if row.has_focus_within), None)

    def action_move(self, by: int) -> None:
        stops: list[Widget] = [self._find, *(row.control for row in self._shown())]
        at = next((place for place, stop in enumerate(stops) if stop.has_focus), 0)
        stops[max(0, min(at + by, len(stops) - 1))].focus()

    def action_reset(self) -> None:
        row = self._at
        if row is not None and not row.row.elsewhere:
            if isinstance(row.control, TextField):
                row.control.put(row.row.default)  # what is being typed is given up too
            self.post_message(self.Reset(row.row.key))

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        event.stop()
        if event.input is self._find:
            self._show_matching(event.value)

    def _show_matching(self, text: str) -> None:
        words = text.casefold().split()
        for row in self._rows.values():
            row.display = row.matches(words)
        for section, head in self._heads.items():
            head.display = any(row.display for row in self._rows.values() if row.row.section == section)
        self._describe(None)

    @on(events.DescendantFocus)
    def _focused(self) -> None:
        self._describe(self._at)

    def _describe(self, row: _Row | None) -> None:
        if row is None:
            count = len(self._shown())
            text = f"{count} setting{'' if count == 1 else 's'} · • is not the default · ↓ goes to them · esc leaves"
        elif row.row.elsewhere:
            text = f"{row.row.help} · enter goes there"
        else:
            text = f"{row.row.help} · ^r takes it"
        self.query_one(".form-help", Static).update(Content(safe_str(text, lines=True)))

    # What is typed

    @on(TextField.Committed)
    def _text(self, event: TextField.Committed) -> None:
        event.stop()
        if event.field is self._find:
            if event.entered:
                self.action_move(1)
            return
        self._tell(event.field, event.text)
        if event.entered:
            self.action_move(1)

    @on(Choice.Changed)
    def _chosen(self, event: Choice.Changed) -> None:
        event.stop()
        self._tell(event.choice, event.value)

    @on(TextField.GivenUp)
    def _given_up(self, event: TextField.GivenUp) -> None:
        event.stop()
        if event.field is not self._find:
            row = self._row_of(event.field)
            row.set_error("")
            self.post_message(self.GivenUp(row.row.key))

    @on(_Pointer.Asked)
    def _asked(self, event: _Pointer.Asked) -> None:
        event.stop()
        self.post_message(self.Asked(self._row_of(event.pointer).row.key))

    def _tell(self, control: Choice | TextField, text: str) -> None:
        self.post_message(self.Changed(self._row_of(control).row.key, text))

    @staticmethod
    def _row_of(control: Widget) -> _Row:
        return next(node for node in control.ancestors if isinstance(node, _Row))
