"""The dialogs: a question with a few answers, the learning rate, facts about a run.

Each returns a typed result, or None where it was closed. The default answer is the safe one, and each
answer has a letter, so no dialog needs arrows or a mouse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from ....engine.model.patch.part import PatchedPart
from ....engine.run.commands import SetLearningRate
from ...safe_text import safe_str, safe_text
from ...state.story import rate_text
from ..base import EvenfallModal

if TYPE_CHECKING:
    from ...state.sources import RunSource


def _is_over(source: "RunSource | None") -> bool:
    """Whether a run takes no more commands."""
    return source is None or source.done or source.progress.ending is not None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer of a question."""

    key: str
    title: str
    note: str
    result: Any


class ChoiceModal(EvenfallModal):
    """A question. The first choice is the default one; esc gives None."""

    CSS_PATH = "../../styles/modals.tcss"

    def __init__(self, title: Content, text: Content, choices: Sequence[Choice]) -> None:
        super().__init__()
        self._title, self._text, self._choices = title, text, choices

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = self._title
            yield Static(self._text, classes="dialog-text", markup=False)
            yield OptionList(*map(self._option, self._choices), markup=False)

    def _option(self, choice: Choice) -> Option:
        key = Content.styled(f"{choice.key} ", "bold $accent")
        note = Content.styled(f"  {choice.note}", "$text-muted") if choice.note else Content("")
        return Option(key + Content.styled(choice.title, "bold") + note)

    def on_mount(self) -> None:
        self.query_one(OptionList).highlighted = 0

    def on_key(self, event: events.Key) -> None:
        for choice in self._choices:
            if event.key == choice.key:
                event.stop()
                self.dismiss(choice.result)

    @on(OptionList.OptionSelected)
    def _selected(self, message: OptionList.OptionSelected) -> None:
        message.stop()
        self.dismiss(self._choices[message.option_index].result)


class QuitModal(ChoiceModal):
    """`detach`, `save` or None."""

    def __init__(self) -> None:
        super().__init__(
            Content("Quit"),
            Content("A run is going. What shall become of it?"),
            [
                Choice(
                    key="d",
                    title="Detach",
                    note="the run goes on; evenfall watch shows it",
                    result="detach",
                ),
                Choice(
                    key="s",
                    title="Save and stop",
                    note="finish the step, save, then quit",
                    result="save",
                ),
                Choice(key="c", title="Cancel", note="stay here", result=None),
            ],
        )

    def source_changed(self) -> None:
        if not self.desk.busy:
            self.close_with("the run has ended meanwhile: q quits")


class StopModal(ChoiceModal):
    """True: save and stop; False: stop without saving; None: go on."""

    def __init__(self) -> None:
        super().__init__(
            Content("Stop the run"),
            Content("The step that is going on is finished first."),
            [
                Choice(
                    key="s",
                    title="Save and stop",
                    note="checkpoint and adapter are written",
                    result=True,
                ),
                Choice(
                    key="w",
                    title="Stop without saving",
                    note="what came after the last save is lost",
                    result=False,
                ),
                Choice(key="c", title="Cancel", note="the run goes on", result=None),
            ],
        )

    def source_changed(self) -> None:
        if _is_over(self.desk.source):
            self.close_with("the run has ended meanwhile: there is nothing to stop")


class LearningRateModal(EvenfallModal):
    """One line: the new learning rate; how it goes on; a question where it is far off."""

    CSS_PATH = "../../styles/modals.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("up,down", "other_mode", "Mode")]
    FAR = 5.0
    """A change by more than this factor is asked about once."""

    def __init__(self, current: float) -> None:
        super().__init__()
        self._current = current
        self._hold = False
        self._asked_for: float | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = Content("Learning rate")
            yield Input(rate_text(self._current), restrict=r"[0-9eE.+\-]*", max_length=16)
            yield Static(id="rate-modes", markup=False)
            yield Static(id="rate-note", markup=False)
            yield Static(
                Content.styled("enter apply   ↑↓ how it goes on   esc cancel", "$text-muted"),
                markup=False,
            )

    def on_mount(self) -> None:
        self._show()

    def source_changed(self) -> None:
        if _is_over(self.desk.source):
            self.close_with("the run has ended meanwhile: its learning rate stays as it was")

    def action_other_mode(self) -> None:
        self._hold = not self._hold
        self._show()

    def _value(self) -> float | None:
        try:
            value = float(self.query_one(Input).value)
        except ValueError:
            return None
        return value if math.isfinite(value) and 0 <= value <= 10 else None

    def _show(self) -> None:
        modes = (("scale the rest of the schedule", False), ("hold it to the end", True))
        words = [
            Content.styled(f"{'●' if hold == self._hold else '○'} {text}",
                           "bold" if hold == self._hold else "$text-muted")
            for text, hold in modes
        ]  # fmt: skip
        self.query_one("#rate-modes", Static).update(Content("   ").join(words))
        value = self._value()
        if value is None:
            note = Content.styled("a number from 0 to 10, such as 1e-4", "$error")
        elif self._is_far(value):
            times = f" is {value / self._current:.3g}×" if self._current else ""
            ask = "enter again to apply it" if self._asked_for == value else "far off"
            change = f"{rate_text(self._current)} → {rate_text(value)}{times}"
            note = Content.styled(f"{change}: {ask}", "$warning")
        elif self._is_unchanged(value):
            note = Content.styled("another rate, or ↑↓ to hold this one to the end", "$text-muted")
        else:
            note = Content(f"{rate_text(self._current)} → {rate_text(value)} from the next step on")
        self.query_one("#rate-note", Static).update(note)

    def _is_unchanged(self, value: float) -> bool:
        """Whether nothing was asked for: a schedule on its way is not to be scaled to a step that lies behind it."""
        return not self._hold and rate_text(value) == rate_text(self._current)

    def _is_far(self, value: float) -> bool:
        return not self._current / self.FAR <= value <= self._current * self.FAR

    @on(Input.Changed)
    def _changed(self, message: Input.Changed) -> None:
        message.stop()
        self._asked_for = None
        self._show()

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        value = self._value()
        if value is None:
            return
        if self._is_far(value) and self._asked_for != value:
            self._asked_for = value
            self._show()
            return
        if self._is_unchanged(value):
            self.close_with("the learning rate stays as it is")
            return
        self.dismiss(SetLearningRate(value, "hold" if self._hold else "scale"))


class InfoModal(EvenfallModal):
    """Facts about a run, and which of its parts run on which kernels, and why."""

    CSS_PATH = "../../styles/modals.tcss"

    def __init__(self, rows: Sequence[tuple[str, Content]], parts: Sequence[PatchedPart]) -> None:
        super().__init__()
        self._rows, self._parts = rows, parts

    def compose(self) -> ComposeResult:
        width = max(len(name) for name, _ in self._rows) + 2
        lines = [Content.styled(name.ljust(width), "$text-muted") + value for name, value in self._rows]
        lines.append(Content(""))
        if self._parts:
            lines.append(Content.styled("parts", "bold"))
            lines += [self._part(part) for part in self._parts]
        else:
            lines.append(Content.styled("All parts are stock so far.", "$text-muted"))
        with VerticalScroll(classes="dialog wide") as dialog:
            dialog.border_title = Content("This run")
            yield Static(Content("\n").join(lines), markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    @staticmethod
    def _part(part: PatchedPart) -> Content:
        word = Content.styled("● fast  ", "$success") if part.fast else Content("○ stock ")
        name = f"{part.count:>4} × {safe_str(part.name, 40)}"
        proof = ""
        if part.error is not None and part.eager_error is not None:
            proof = f"  error {part.error:.1e}, stock {part.eager_error:.1e}"
        return word + Content(name) + Content.styled(f"  {safe_str(part.reason, 200)}{proof}", "$text-muted")


class TextModal(EvenfallModal):
    """Some text with a title, to read and close."""

    CSS_PATH = "../../styles/modals.tcss"

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide") as dialog:
            dialog.border_title = safe_text(self._title, 60)
            yield Static(safe_text(self._text, 20_000, lines=True), markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
