"""Conversation: prompts and answers, one answer or two beside each other.

Answers stream as plain text: rendering markup again at every token would cost more than the model.
The view follows the newest line until the user scrolls away from it.
"""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ..safe_text import safe_text

LIMIT = 40_000
"""Characters shown of one answer."""


class _Answer(Vertical):
    """One answer: who gave it, the text, and what it took."""

    def __init__(self, side: str, *, tuned: bool) -> None:
        super().__init__(classes="-tuned" if tuned else "-base")
        self.side = side
        self._head = Static(classes="answer-head", markup=False)
        self._body = Static(classes="answer-body", markup=False)

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._body

    def set_data(self, text: str, note: str) -> None:
        mark = "●" if self.has_class("-tuned") else "○"
        style = "$accent bold" if self.has_class("-tuned") else "$primary bold"
        head = Content.styled(f"{mark} {self.side}", style)
        self._head.update(head + safe_text(f"   {note}", 120, style="$text-muted"))
        self._body.update(safe_text(text, LIMIT, lines=True))


class _Turn(Vertical):
    def __init__(self, prompt: str, answers: Sequence[_Answer]) -> None:
        super().__init__()
        self._prompt, self.answers = prompt, {answer.side: answer for answer in answers}

    def compose(self) -> ComposeResult:
        you = Content.styled("› ", "$success bold")
        yield Static(you + safe_text(self._prompt, LIMIT, lines=True, style="bold"), markup=False)
        with Container(classes="answers"):
            yield from self.answers.values()


class Conversation(VerticalScroll):
    """A column of turns."""

    DEFAULT_CSS = """
    Conversation { height: 1fr; scrollbar-size-vertical: 1; padding: 0 1; }
    Conversation _Turn { height: auto; margin-bottom: 1; }
    Conversation .answers { layout: horizontal; height: auto; }
    Conversation _Answer { width: 1fr; height: auto; padding: 0 2 0 2; }
    Conversation .answer-body { height: auto; min-height: 1; }
    """

    def on_mount(self) -> None:
        self.anchor()

    async def add_turn(self, prompt: str, sides: Sequence[tuple[str, bool]]) -> None:
        """Begin a turn; `sides` are (name, whether the adapter is on) of the answers to come."""
        await self.mount(_Turn(prompt, [_Answer(side, tuned=tuned) for side, tuned in sides]))
        self.anchor()

    def set_answer(self, side: str, text: str, note: str) -> None:
        """Show an answer of the last turn as far as it goes."""
        turns = self.query(_Turn)
        if turns:
            turns.last().answers[side].set_data(text, note)

    async def drop_last(self) -> None:
        """Take the last turn away: it failed."""
        if turns := self.query(_Turn):
            await turns.last().remove()

    async def clear(self) -> None:
        await self.query(_Turn).remove()
