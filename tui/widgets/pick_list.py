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


class PickRows(OptionList):
    """The rows of a PickList; where the list is one of several, the arrows go on to the next."""

    @dataclass
    class Beyond(Message):
        """An arrow was pressed at an end of the rows behind which there is more."""

        step: int

    above = below = False
    """Whether there is something to go to above the first row, and below the last."""

    def enter(self, *, from_above: bool) -> None:
        """Put the cursor on the row that an arrow from outside comes to."""
        if self.option_count:
            self.highlighted = 0 if from_above else self.option_count - 1

    def action_cursor_up(self) -> None:
        if self.above and not self.highlighted:
            self.post_message(self.Beyond(-1))
        else:
            super().action_cursor_up()

    def action_cursor_down(self) -> None:
        if self.below and (self.highlighted is None or self.highlighted == self.option_count - 1):
            self.post_message(self.Beyond(1))
        else:
            super().action_cursor_down()


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

    def __init__(
        self, columns: Sequence[Column], *, id: str | None = None, above: bool = False, below: bool = False
    ) -> None:
        """`above`, `below`: where the arrows leave the list for what else is to be chosen on the screen."""
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._rows: tuple[PickRow, ...] = ()
        self._head = Static(self._line([column.title for column in columns], "  "), markup=False)
        self._options = PickRows(markup=False, compact=True)
        self._options.above, self._options.below = above, below

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
