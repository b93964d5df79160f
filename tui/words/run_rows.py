"""The table of runs in words: its cells, in which order its rows stand, and which of them match a search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...engine.run.summary import RunSummary
from ..safe_text import safe_str
from .run_figures import STATES, loss_figure, state_word, steps_text, time_figure

COLUMNS = ("name", "state", "model", "steps", "loss", "eval", "trained", "when", "size", "note")
WIDE_ONLY = frozenset({"model", "eval", "size"})
NOTE_WIDTH = 140
"""Columns that a screen needs to have room for notes in the table."""
_STATES = tuple(STATES)
_SORTS: dict[str, tuple[Callable[[RunSummary], Any], bool]] = {
    "when": (lambda row: row.when, True),
    "name": (lambda row: row.run.name.casefold(), False),
    "state": (lambda row: (not row.live, _STATES.index(row.state)), False),
    "loss": (lambda row: row.loss, False),
    "eval": (lambda row: row.evaluation, False),
    "trained": (lambda row: row.trained_seconds, True),
    "size": (lambda row: row.megabytes, True),
}
"""Column -> what its rows are compared by, and whether the largest comes first unless turned round."""


@dataclass(frozen=True)
class Order:
    """How the rows are sorted."""

    column: str = "when"
    turned: bool = False

    @property
    def largest_first(self) -> bool:
        return _SORTS[self.column][1] != self.turned

    @property
    def mark(self) -> str:
        """For the column's heading."""
        return "▼" if self.largest_first else "▲"

    def next(self) -> "Order":
        """By the next column."""
        columns = tuple(_SORTS)
        return Order(columns[(columns.index(self.column) + 1) % len(columns)])

    def by(self, column: str) -> "Order":
        """By this column; turned round where it is so already. A column that nothing is sorted by changes nothing."""
        if column not in _SORTS:
            return self
        return Order(column, not self.turned) if column == self.column else Order(column)

    def sort(self, rows: Sequence[RunSummary]) -> list[RunSummary]:
        """Those without a figure come last, either way."""
        if self == Order():
            return list(rows)  # they are listed so: by when their files were written
        key = _SORTS[self.column][0]
        known = [row for row in rows if key(row) is not None]
        return sorted(known, key=key, reverse=self.largest_first) + [row for row in rows if key(row) is None]


def matches(row: RunSummary, words: Sequence[str]) -> bool:
    """Whether every word (in small letters) stands in the run's name, model, state or note."""
    text = f"{row.run.name} {row.model} {state_word(row.state)} {row.note}".casefold()
    return all(word in text for word in words)


def shown_columns(width: int, order: Order, noted: bool) -> list[str]:
    """The columns that a screen of that width has room for, and always the one that is sorted by."""
    columns = [column for column in COLUMNS if width >= 100 or column not in WIDE_ONLY or column == order.column]
    if order.column in WIDE_ONLY and width < 100:
        columns.remove("steps")
    if width < NOTE_WIDTH or not noted:
        columns.remove("note")
    return columns


def ago_text(seconds: float) -> str:
    """now, 5 min ago, 3 h ago, 2 days ago."""
    if seconds < 60:
        return "now"
    for size, word in ((86_400, "day"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {word}{'s' if word == 'day' and count > 1 else ''} ago"
    return "now"


def size_text(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 999.5 else f"{megabytes:.0f} MB"


def freed_text(megabytes: float) -> str:
    """What is freed; never nothing."""
    return size_text(megabytes) if megabytes >= 0.5 else "less than 1 MB"


def cells_of(row: RunSummary, now: float) -> tuple[str, ...]:
    """A row's texts, in the order of COLUMNS."""
    glyph, word, _ = STATES[row.state]
    return (
        safe_str(row.run.name, 28),
        safe_str(f"{glyph} {word}" + (f" on {row.elsewhere}" if row.elsewhere else ""), 32),
        safe_str(row.model, 20),
        "-" if row.state == "new" else steps_text(row.step, row.total_steps),
        loss_figure(row.loss),
        loss_figure(row.evaluation),
        time_figure(row.trained_seconds),
        ago_text(now - row.when),
        size_text(row.megabytes),
        safe_str(row.note, 40),
    )
