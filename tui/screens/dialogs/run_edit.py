"""The dialogs of the Runs screen: what is deleted and what that frees, and one line to type (a name, a note)."""

from collections.abc import Callable, Sequence

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static

from ....engine.run.edit import RunContents
from ....engine.run.summary import RunSummary
from ...safe_text import safe_str, safe_text
from ...value_text import counted
from ...widgets.field import TextField
from ...words.run_figures import state_word
from ...words.run_rows import freed_text
from ..base import EvenfallModal
from .common import Choice, ChoiceModal

_LISTED = 8
"""Names that a question lists before it counts the rest."""


def _what_goes(row: RunSummary, contents: RunContents) -> Content:
    name = Content.styled(safe_str(row.run.name, 64), "bold")
    name += Content.styled(f"  {state_word(row.state)}", "$text-muted")
    lines = [name]
    if row.note:
        lines.append(safe_text(row.note, 200, style="$text-muted"))
    if contents.link_to is not None:
        link = safe_str(contents.link_to, 100)
        lines.append(Content(f"It is a link to {link}: the link goes, all that it points to stays."))
        return Content("\n").join(lines)
    parts = []
    if contents.checkpoints:
        steps = ", ".join(map(str, contents.checkpoints))
        parts.append(f"{counted(len(contents.checkpoints), 'checkpoint')} (step {steps})")
    if contents.adapter:
        parts.append("the final adapter")
    if contents.exports:
        parts.append(f"exports: {safe_str(', '.join(contents.exports), 120)}")
    parts.append("its record")
    lines.append(Content(f"Frees {freed_text(row.megabytes)}: {', '.join(parts)}."))
    if contents.links:
        text = f"Links in it go, what they point to stays: {safe_str(', '.join(contents.links), 120)}"
        lines.append(Content.styled(text, "$warning"))
    return Content("\n").join(lines)


def _answers(delete: str) -> list[Choice]:
    return [
        Choice(key="k", title="Keep", note="", result=None),
        # A capital: words that somebody means for a field delete nothing.
        Choice(key="D", title=delete, note="cannot be undone", result=True),
    ]


class DeleteRunModal(ChoiceModal):
    """True: delete the run; None: keep it."""

    def __init__(self, row: RunSummary, contents: RunContents) -> None:
        super().__init__(Content("Delete this run?"), _what_goes(row, contents), _answers("Delete"))


class DeleteFailedModal(ChoiceModal):
    """True: delete all these runs; None: keep them."""

    def __init__(self, rows: Sequence[RunSummary]) -> None:
        names = [safe_text(row.run.name, 60) for row in rows[:_LISTED]]
        if len(rows) > _LISTED:
            names.append(Content.styled(f"and {len(rows) - _LISTED:,} more", "$text-muted"))
        what = "They ended before their first step and saved nothing."
        text = Content("\n").join([*names, Content(f"{what} Frees {freed_text(sum(row.megabytes for row in rows))}.")])
        title = f"Delete {counted(len(rows), 'failed start')}?"
        super().__init__(Content(title), text, _answers("Delete all"))


class LineModal(EvenfallModal):
    """Asks for a line of text; closes with it, or with None. A text that does not fit says why and is not taken."""

    CSS_PATH = "../../styles/modals.tcss"

    def __init__(self, *, title: str, value: str, about: str, check: Callable[[str], str]) -> None:
        """`check` gives the reason why a text does not fit; empty where it does."""
        super().__init__()
        self._title, self._value, self._about, self._check = title, value, about, check

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = safe_text(self._title, 60)
            yield TextField(self._value, draft=True)
            yield Static(id="line-note", markup=False)
            keys = Content.assemble(("enter", "$accent bold"), " takes it   ", ("esc", "$accent bold"), " closes")
            yield Static(keys, classes="dialog-keys", markup=False)

    def on_mount(self) -> None:
        self.query_one(TextField).focus()
        self._show("")

    def _show(self, why: str) -> None:
        note = (
            safe_text(why, 400, lines=True, style="$text-error") if why else Content.styled(self._about, "$text-muted")
        )
        self.query_one("#line-note", Static).update(note)
        self.query_one(TextField).mark_bad(bool(why))

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._show(self._check(event.value) if event.value != self._value else "")

    @on(TextField.Committed)
    def _entered(self, event: TextField.Committed) -> None:
        event.stop()
        if not event.entered:
            return
        why = self._check(event.text)
        if why:
            self._show(why)
        else:
            self.dismiss(event.text)
