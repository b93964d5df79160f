"""The dialog that asks how rows are to be read, where that cannot be told from them.

What fits stands first, each way with its reason; below, any format can be taken and its keys mapped to columns by
hand, and roles given to speakers whose names are none. The row itself is shown, since nobody knows the columns by
heart.
"""

from typing import TYPE_CHECKING, get_args

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from ....engine.config.run_config import Role
from ....engine.data.formats.columns import FORM_KEYS
from ...safe_text import safe_text
from ...widgets.field import Choice
from ...widgets.pick_list import Column, PickList, PickRow
from ..base import EvenfallModal

if TYPE_CHECKING:
    from ....engine.data.formats.ways import UndecidedFormat

_NONE = ""
_MOST_KEYS = max(len(keys) for keys in FORM_KEYS.values())
_WAYS = (Column("FORMAT", 18), Column("BECAUSE", 0))


class ColumnsModal(EvenfallModal):
    """Closes with the overrides of `data.format` and `data.columns`, or with None."""

    CSS_PATH = "../../styles/columns.tcss"

    def __init__(self, question: "UndecidedFormat") -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        question = self._question
        columns = [(_NONE, "none"), *((name, name) for name in question.columns)]
        with Vertical(id="columns-box"):
            title = "How are these rows to be read?"
            yield Static(Content.styled(title, "bold"), classes="columns-line", markup=False)
            yield Static(
                safe_text(question.row.content.decode(errors="replace"), 300),
                id="columns-row",
                markup=False,
            )
            yield PickList(_WAYS, id="columns-ways", above=True, below=True)
            with Horizontal(classes="columns-field"):
                yield Static("or read as", classes="columns-name", markup=False)
                yield Choice([(name, name) for name in FORM_KEYS], id="columns-format")
            for place in range(_MOST_KEYS):
                with Horizontal(classes="columns-field", id=f"columns-key-{place}"):
                    yield Static("", classes="columns-name", markup=False)
                    yield Choice(columns)
            for place, name in enumerate(question.speakers):
                with Horizontal(classes="columns-field"):
                    yield Static(safe_text(name, 20), classes="columns-name", markup=False)
                    choice = Choice([(role, role) for role in get_args(Role)], id=f"columns-role-{place}")
                    choice.value = ("user", "assistant")[place % 2]
                    yield choice
            yield Static("", id="columns-error", markup=False)
            yield Static(
                Content.assemble(
                    ("↑ ↓", "$accent bold"), " move   ", ("← →", "$accent bold"), " turn   ",
                    ("enter", "$accent bold"), " takes a way   ",
                    ("^s", "$accent bold"), " takes the columns   ",
                    ("esc", "$accent bold"), " closes",
                ),
                classes="columns-line", markup=False,
            )  # fmt: skip

    BINDINGS = [("ctrl+s", "take", "Take the columns")]  # noqa: RUF012 - as Textual has it

    def on_mount(self) -> None:
        ways = self.query_one(PickList)
        ways.set_rows(
            [PickRow(str(place), (one.format, one.reason)) for place, one in enumerate(self._question.candidates)]
        )
        ways.display = bool(self._question.candidates)
        likely = (self._question.format, *(one.format for one in self._question.candidates))
        first = next((format for format in likely if format in FORM_KEYS), None)
        if first is not None:
            self.query_one("#columns-format", Choice).put(first)
        self._show_keys()
        if self._question.candidates:
            ways.focus_rows()
        else:
            self.query_one("#columns-format").focus()

    @property
    def _format(self) -> str:
        return self.query_one("#columns-format", Choice).value

    def _fields(self) -> list[tuple[str, Choice]]:
        """The keys of the chosen format, each with its column."""
        return [
            (key, self.query_one(f"#columns-key-{place}").query_one(Choice))
            for place, key in enumerate(FORM_KEYS[self._format])
        ]

    def _show_keys(self) -> None:
        keys = FORM_KEYS[self._format]
        known = next((one.columns for one in self._question.candidates if one.format == self._format), {})
        for place in range(_MOST_KEYS):
            field = self.query_one(f"#columns-key-{place}")
            field.display = place < len(keys)
        for (key, choice), needed in zip(self._fields(), keys.values(), strict=True):
            name = f"{key}" if needed else f"{key} (if any)"
            parent = choice.parent
            assert parent is not None
            parent.query_one(Static).update(Content(name))
            same = key if key in self._question.columns else _NONE
            choice.put(known.get(key, same))
        self.query_one("#columns-error", Static).update("")

    @on(Choice.Changed, "#columns-format")
    def _other_format(self, event: Choice.Changed) -> None:
        event.stop()
        self._show_keys()

    @on(PickList.Picked)
    def _picked(self, event: PickList.Picked) -> None:
        event.stop()
        self.dismiss(self._question.candidates[int(event.row)].overrides)

    def action_take(self) -> None:
        """Take the format and the columns that stand below."""
        from ....engine.data.formats.normalise import columns_text
        from ....engine.data.formats.ways import Candidate

        given = {key: choice.value for key, choice in self._fields() if choice.value != _NONE}
        keys = FORM_KEYS[self._format]
        missing = [key for key, needed in keys.items() if needed and key not in given]
        if missing:
            error = f"{self._format} needs a column for {', '.join(missing)}"
            self.query_one("#columns-error", Static).update(Content.styled(error, "$text-error"))
            return
        columns = {key: column for key, column in given.items() if key != column}
        named = {
            name: self.query_one(f"#columns-role-{place}", Choice).value
            for place, name in enumerate(self._question.speakers)
        }
        way = Candidate(
            format=self._format,  # type: ignore[arg-type]
            columns=columns,
            reason="",
            settings=(f"data.roles={columns_text(named)}",) if named else (),
        )
        self.dismiss(way.overrides)
