"""Form: configuration keys as rows of name, control and, under the row at fault, what is wrong.

The form knows keys and texts only. It says which key got which text (`Form.Changed`); whoever listens
tries it and answers with `set_values` or `set_error`. A text that was refused stays in its field, under
its error, until it is corrected or escape takes it back (`Form.GivenUp`). The line at the bottom describes the row
that has
the focus, so that every key explains itself without a manual.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import DescendantFocus
from textual.message import Message
from textual.widgets import Static

from ..safe_text import safe_text
from .field import Choice, TextField


@dataclass(frozen=True, kw_only=True)
class FormRow:
    """One key of a form."""

    key: str
    title: str
    help: str
    """What it is and what it takes, for the line at the bottom."""
    choices: tuple[tuple[str, str], ...] = ()
    """(value, shown word) pairs; none: free text."""
    placeholder: str = ""


class _Row(Vertical):
    """A row's name and control, and the error under them."""

    def __init__(self, row: FormRow) -> None:
        super().__init__()
        self.row = row
        self._stands = ""
        self._error = Static("", classes="row-error", markup=False)
        self._control: Choice | TextField = (
            Choice(row.choices) if row.choices else TextField(placeholder=row.placeholder)
        )

    def compose(self) -> ComposeResult:
        with Horizontal(classes="row-line"):
            yield Static(Content(self.row.title), classes="row-name", markup=False)
            yield self._control
        yield self._error

    def put(self, text: str) -> None:
        self._stands = text
        if isinstance(self._control, Choice) or not self._control.typing:
            self._control.put(text)
        self.set_error("")

    def set_error(self, message: str) -> None:
        self._error.update(safe_text(message, 400))
        self._error.display = bool(message)
        if isinstance(self._control, TextField):
            if message:
                self._control.refuse(self._stands)
            else:
                self._control.mark_bad(False)

    def focus_control(self) -> None:
        self._control.focus()


class Form(Vertical):
    """A column of `FormRow`s."""

    DEFAULT_CSS = """
    Form > VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    Form _Row { height: auto; }
    Form .row-line { height: 1; }
    Form .row-name { width: 24; color: $text-muted; }
    Form _Row:focus-within .row-name { color: $accent; text-style: bold; }
    Form .row-error { color: $text-error; display: none; padding-left: 2; height: auto; }
    Form TextField { max-width: 40; }
    Form .form-help { height: 2; color: $text-muted; }
    """

    @dataclass
    class Changed(Message):
        """The user gave `key` the text `text`."""

        key: str
        text: str

    @dataclass
    class GivenUp(Message):
        """The user took back the text of `key` that had been refused."""

        key: str

    def __init__(self, rows: Sequence[FormRow], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._rows = {row.key: _Row(row) for row in rows}

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield from self._rows.values()
        yield Static("", classes="form-help", markup=False)

    def set_values(self, values: Mapping[str, str], refused: Mapping[str, str]) -> None:
        """Show the texts that stand.

        A field that is being typed in keeps what was typed, and one of a key in `refused` (key -> why)
        what it holds.
        """
        for key, text in values.items():
            if key in refused:
                self._rows[key].set_error(refused[key])
            else:
                self._rows[key].put(text)

    def set_error(self, key: str, message: str) -> None:
        """Show why the text of `key` was refused; an empty message clears it."""
        self._rows[key].set_error(message)

    def focus_first(self) -> None:
        next(iter(self._rows.values())).focus_control()

    @on(DescendantFocus)
    def _describe(self, event: DescendantFocus) -> None:
        row = next((node for node in event.widget.ancestors if isinstance(node, _Row)), None)
        if row is not None:
            self.query_one(".form-help", Static).update(Content(row.row.help))

    @on(TextField.Committed)
    def _text(self, event: TextField.Committed) -> None:
        event.stop()
        self._tell(event.field, event.text)
        if event.entered:
            self.screen.focus_next()

    @on(Choice.Changed)
    def _chosen(self, event: Choice.Changed) -> None:
        event.stop()
        self._tell(event.choice, event.value)

    @on(TextField.GivenUp)
    def _given_up(self, event: TextField.GivenUp) -> None:
        event.stop()
        row = self._row_of(event.field)
        row.set_error("")
        self.post_message(self.GivenUp(row.row.key))

    def _tell(self, control: Choice | TextField, text: str) -> None:
        self.post_message(self.Changed(self._row_of(control).row.key, text))

    @staticmethod
    def _row_of(control: Choice | TextField) -> _Row:
        return next(node for node in control.ancestors if isinstance(node, _Row))
