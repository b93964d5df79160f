"""TokenView: one row of a data set, as the model will see it.

Three things are told apart, each by more than colour: what is learnt (bold, underlined, and a `▌T` in the
gutter), what is only read (dim, `·`), and special tokens (in ‹angle quotes›, so that a template's marker
cannot be taken for text). A change between learnt and read starts a new line, so a gutter mark
holds for its whole line.
"""

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, get_character_cell_size
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.events import Resize
from textual.widgets import Static

from ..safe_text import safe_str, safe_text

Run = tuple[str, bool, bool]
"""(text, trained, special): tokens that follow each other and are of one kind."""

LIMIT = 20_000
"""Characters shown of a row; more than a few screens of one row help nobody."""
LEGEND = Content.assemble(
    ("▌T ", "$success"),
    ("learnt", "bold underline"),
    ("   · read only", "$text-muted"),
    ("   ‹special›", "$accent"),
    (" token", "$text-muted"),
)


class TokenView(VerticalScroll):
    """Shows runs of tokens with a gutter, or plain text."""

    DEFAULT_CSS = "TokenView { height: 1fr; scrollbar-size-vertical: 1; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._runs: tuple[Run, ...] = ()
        self._raw: str | None = None
        self._body = Static("", markup=False)

    def compose(self) -> ComposeResult:
        yield self._body

    def set_runs(self, runs: Iterable[Run]) -> None:
        """Show a tokenised row."""
        self._runs, self._raw = tuple(runs), None
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
                _line(spans) for spans in _wrapped(self._runs, self.size.width - 6)
            ]  # gutter 5, line-break mark 1
            self._body.update(Content("\n").join(lines))


def _wrapped(runs: Sequence[Run], width: int) -> list[list[Run]]:
    """Cut runs into lines of at most `width` cells; every line is all trained or all masked."""
    lines: list[list[Run]] = [[]]
    shown = used = 0
    for text, trained, special in runs:
        if lines[-1] and lines[-1][-1][1] != trained:
            lines.append([])
            used = 0
        if shown >= LIMIT:
            lines[-1].append((f"… the first {LIMIT:,} characters are shown", trained, False))
            break
        clean = safe_str(text, LIMIT - shown, lines=not special)
        shown += len(clean)
        for n, part in enumerate((f"‹{clean}›" if special else clean).split("\n")):
            if n:
                lines[-1].append(("⏎", trained, special))
                lines.append([])
                used = 0
            for m, piece in enumerate(_cut(part, width - used, width)):
                if m:
                    lines.append([])
                    used = 0
                lines[-1].append((piece, trained, special))
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


def _line(pieces: Sequence[Run]) -> Content:
    trained = pieces[0][1]
    line = Content.styled(" ▌T  " if trained else "  ·  ", "$success" if trained else "$text-muted")
    for text, learnt, special in pieces:
        if special:
            style = "$accent bold underline" if learnt else "$accent"
        else:
            style = "bold underline" if learnt else "$text-muted"
        line = line + Content.styled(text, style)
    return line
