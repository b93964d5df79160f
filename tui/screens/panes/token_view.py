"""TokenView: one row of a data set, as the model will see it.

Four things are told apart, each by more than colour: what is learnt (bold, underlined, and a `▌T` in the
gutter), what is only read (dim, `·`), what is cut off (struck through, `✂`), and special tokens (in
‹angle quotes›, so that a template's marker cannot be taken for text). A change between them starts a new line,
so a gutter mark holds for its whole line; so does a new document.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, get_character_cell_size
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.events import Resize
from textual.widgets import Static

from ...safe_text import safe_str, safe_text

if TYPE_CHECKING:
    from ....engine.data.inspector.inspect import Fate, InspectedRow


class Stretch(NamedTuple):
    """Tokens that follow each other and are of one kind."""

    text: str
    fate: "Fate"
    special: bool
    document: int = 0
    """Which document of the row, from 0."""


LIMIT = 20_000
"""Characters shown of a row; more than a few screens of one row help nobody."""
LEGEND = Content.assemble(
    ("▌T ", "$success"),
    ("learnt", "bold underline"),
    ("   · read only", "$text-muted"),
    ("   ✂ ", "$warning"),
    ("cut off", "$text-muted strike"),
    ("   ‹special›", "$accent"),
    (" token", "$text-muted"),
)


class TokenView(VerticalScroll):
    """Shows runs of tokens with a gutter, or plain text."""

    DEFAULT_CSS = "TokenView { height: 1fr; scrollbar-size-vertical: 1; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._stretches: tuple[Stretch, ...] = ()
        self._raw: str | None = None
        self._body = Static("", markup=False)

    def compose(self) -> ComposeResult:
        yield self._body

    def set_stretches(self, runs: Iterable[Stretch]) -> None:
        """Show a tokenised row."""
        self._stretches, self._raw = tuple(runs), None
        self._draw()
        self.scroll_home(animate=False)

    def set_raw(self, text: str) -> None:
        """Show plain text, line breaks kept."""
        self._raw = text
        self._draw()
        self.scroll_home(animate=False)

    def on_resize(self, event: Resize) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._raw is not None:
            self._body.update(safe_text(self._raw, LIMIT, lines=True))
        elif self.size.width > 12:
            lines = [
                _line(spans) for spans in _wrapped(self._stretches, self.size.width - 6)
            ]  # gutter 5, line-break mark 1
            self._body.update(Content("\n").join(lines))


def stretches_of(row: "InspectedRow", ids: bool) -> Iterator[Stretch]:
    """The tokens of a row as runs; with `ids` each token by itself, behind its id."""
    starts, document = set(row.starts), -1
    held: Stretch | None = None
    for place, token in enumerate(row.tokens):
        document += place in starts
        text = f"⟦{token.id}⟧{token.text}" if ids else token.text
        stretch = Stretch(text, token.fate, token.special, document)
        if held is not None and not ids and held[1:] == stretch[1:] and not token.special:
            held = held._replace(text=held.text + text)
            continue
        if held is not None:
            yield held
        held = stretch
    if held is not None:
        yield held


def _wrapped(runs: Sequence[Stretch], width: int) -> list[list[Stretch]]:
    """Cut runs into lines of at most `width` cells; every line is of one fate and one document."""
    lines: list[list[Stretch]] = [[]]
    shown = used = 0
    for run in runs:
        if lines[-1] and (lines[-1][-1].fate, lines[-1][-1].document) != (run.fate, run.document):
            lines.append([])
            used = 0
        if shown >= LIMIT:
            end = f"… the first {LIMIT:,} characters are shown"
            lines[-1].append(run._replace(text=end, special=False))
            break
        clean = safe_str(run.text, LIMIT - shown, lines=not run.special)
        shown += len(clean)
        for n, part in enumerate((f"‹{clean}›" if run.special else clean).split("\n")):
            if n:
                lines[-1].append(run._replace(text="⏎"))
                lines.append([])
                used = 0
            for m, piece in enumerate(_cut(part, width - used, width)):
                if m:
                    lines.append([])
                    used = 0
                lines[-1].append(run._replace(text=piece))
                used += cell_len(piece)
    return [line for line in lines if line]


def _cut(text: str, first: int, width: int) -> Iterator[str]:
    """Pieces of `text` of at most `width` cells (`first` for the first), cut at blanks if it can."""
    room = first
    while text:
        end = cells = 0
        while end < len(text) and (cells := cells + get_character_cell_size(text[end])) <= room:
            end += 1
        blank = text.rfind(" ", 0, end) + 1
        if end < len(text) and blank > 0:
            end = blank
        elif end < len(text) and room < width:
            end = 0  # no blank, but a whole line is free below
        if end == 0 and room >= width:
            end = 1  # a character wider than the line
        yield text[:end]
        text, room = text[end:], width


_GUTTER = {"trained": " ▌T  ", "read": "  ·  ", "cut": "  ✂  "}
_COLOUR = {"trained": "$success", "read": "$text-muted", "cut": "$warning"}
_STYLE = {"trained": "bold underline", "read": "$text-muted", "cut": "$text-muted strike"}
_SPECIAL = {"trained": "$accent bold underline", "read": "$accent", "cut": "$accent strike"}


def _line(pieces: Sequence[Stretch]) -> Content:
    fate = pieces[0].fate
    line = Content.styled(_GUTTER[fate], _COLOUR[fate])
    for piece in pieces:
        style = (_SPECIAL if piece.special else _STYLE)[piece.fate]
        line = line + Content.styled(piece.text, style)
    return line
