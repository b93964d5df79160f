"""PickList: a table from which one row is picked.

An OptionList under a heading line, with cells padded to columns. It costs a fraction of a DataTable and its
keys are the ones people try first: arrows, page keys, home, end and enter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ..safe_text import safe_text


@dataclass(frozen=True)
class Column:
    """A column's heading and width in cells; width 0 takes what is left."""

    title: str
    width: int
    right: bool = False


@dataclass(frozen=True)
class PickRow:
    """One row; `chosen` marks the one in force."""

    id: str
    cells: tuple[str, ...]
    chosen: bool = False


class PickList(Vertical):
    """Rows under a heading; `Highlighted` while moving, `Picked` on enter."""

    DEFAULT_CSS = """
    PickList { height: auto; padding: 0 1; }
    PickList > Static { height: 1; color: $text-muted; text-wrap: nowrap; }
    PickList > OptionList { height: auto; max-height: 1fr; background: $background; border: none;
        padding: 0; text-wrap: nowrap; text-overflow: ellipsis; scrollbar-size-vertical: 1; }
    PickList > OptionList:focus { background-tint: $foreground 0%; }
    """

    @dataclass
    class Highlighted(Message):
        """The cursor is on this row."""

        list: "PickList"
        row: str

        @property
        def control(self) -> "PickList":
            return self.list

    @dataclass
    class Picked(Message):
        """The user chose this row."""

        list: "PickList"
        row: str

        @property
        def control(self) -> "PickList":
            return self.list

    def __init__(self, columns: Sequence[Column], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._rows: tuple[PickRow, ...] = ()
        self._head = Static(self._line([column.title for column in columns], "  "), markup=False)
        self._options = OptionList(markup=False, compact=True)

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._options

    @property
    def highlighted(self) -> str | None:
        """The row under the cursor."""
        at = self._options.highlighted
        return self._rows[at].id if at is not None and at < len(self._rows) else None

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def set_columns(self, columns: Sequence[Column]) -> None:
        """Show other columns (the cells of the next `set_rows` must fit them)."""
        self._columns = tuple(columns)
        self._head.update(self._line([column.title for column in columns], "  "))

    def set_rows(self, rows: Sequence[PickRow], *, highlight: str | None = None) -> None:
        """Show these rows; the cursor goes to `highlight`, else stays on the row it was on."""
        highlight = highlight or self.highlighted
        self._rows = tuple(rows)
        with self.prevent(OptionList.OptionHighlighted):
            self._options.set_options(
                Option(self._line(row.cells, "● " if row.chosen else "  ", row.chosen)) for row in rows
            )
        ids = [row.id for row in rows]
        if ids:
            self._options.highlighted = ids.index(highlight) if highlight in ids else 0

    def focus_rows(self) -> None:
        self._options.focus()

    def _line(self, cells: Sequence[str], mark: str, chosen: bool = False) -> Content:
        line = Content.styled(mark, "$accent" if chosen else "")
        for column, cell in zip(self._columns, cells, strict=True):
            text = safe_text(cell, 200)
            if column.width:
                text = text.truncate(column.width, ellipsis=True)
                gap = " " * (column.width - text.cell_length)
                text = Content(gap) + text if column.right else text + Content(gap)
            line += text + Content("  ")
        line = line.rstrip()
        return line.stylize("bold") if chosen else line

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option_index < len(self._rows):
            self.post_message(self.Highlighted(self, self._rows[event.option_index].id))

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_index < len(self._rows):
            self.post_message(self.Picked(self, self._rows[event.option_index].id))
