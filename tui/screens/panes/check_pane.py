"""CheckPane: what the check of the data found, what comes of it, and the keys that settle it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from ...safe_text import safe_text
from ...value_text import LEVELS, only_path, places_text
from ...widgets.pick_list import Column, PickList, PickRow
from ...words.check import statistics_lines

if TYPE_CHECKING:
    from ....engine.data.report.findings import DataCheck, Finding, Fix, Place

_STYLES = {"red": "$error", "amber": "$warning", "green": "$success"}
FIX_KEYS = {"drop": "x", "cut": "s", "keep": "v", "length": "l"}
"""Verb of a fix -> the key that takes it."""


class CheckPane(Vertical):
    """A list of findings, the gravest first; below it the one under the cursor, and the figures."""

    @dataclass
    class Moved(Message):
        """Another finding is under the cursor: other keys may work."""

    @dataclass
    class Asked(Message):
        """The rows of a finding are to be looked at, from this one on."""

        place: "Place"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._check: DataCheck | None = None
        self._chosen = False  # whether the user has moved the cursor since the check was made

    def compose(self) -> ComposeResult:
        columns = (Column("level", 8), Column("rows", 7, right=True), Column("what", 0))
        yield PickList(columns, id="check-findings")
        yield Static("", id="check-about", markup=False)
        yield Static("", id="check-figures", markup=False)

    def set_data(self, check: "DataCheck | None") -> None:
        """Show what a check found; None: nothing."""
        self._check = check
        rows = [_row(finding) for finding in check.findings] if check else []
        rows += [PickRow(note, ("· NOTE", "", note)) for note in self._notes]
        self.query_one(PickList).set_rows(rows, highlight=rows[0].id if rows else None)
        self._chosen = False
        figures = Content("")
        if check is not None:
            lines = statistics_lines(check.statistics, check.report.max_length)
            figures = Content("\n").join(safe_text(line, 200) for line in lines)
        self.query_one("#check-figures", Static).update(figures)
        self._show()

    @property
    def _notes(self) -> list[str]:
        """What was not looked at, and what was done to rows that the template could not take as they are."""
        if self._check is None:
            return []
        done = self._check.report.notes.items()
        return [*self._check.notes, *(f"{note}: {rows:,} rows" for note, rows in done)]

    def focus_findings(self) -> None:
        self.query_one(PickList).focus_rows()

    @property
    def finding(self) -> "Finding | None":
        """The one under the cursor."""
        code = self.query_one(PickList).highlighted
        each = self._check.findings if self._check else ()
        return next((one for one in each if one.code == code), None)

    def fix(self, verb: str) -> "Fix | None":
        """What a verb sets for the finding under the cursor; None: it does nothing for it. What is settled is
        taken back only where somebody went: a key that is pressed once too often does not.
        """
        finding = self.finding
        if finding and finding.level == "green" and not self._chosen:
            return None
        each = finding.fixes if finding else ()
        return next((fix for fix in each if fix.verb == verb), None)

    def recommended(self) -> str | None:
        """The setting of the length that holds 95 of 100 rows; None where it is set."""
        if self._check is None:
            return None
        figures = self._check.statistics
        length = min(figures.recommended_length, figures.context or figures.recommended_length)
        return f"data.max_length={length}" if length != self._check.report.max_length else None

    @on(PickList.Highlighted)
    def _moved(self, event: PickList.Highlighted) -> None:
        event.stop()
        first = self._check and self._check.findings[:1]
        self._chosen = self._chosen or not first or event.row != first[0].code
        self._show()
        self.post_message(self.Moved())

    @on(PickList.Picked)
    def _picked(self, event: PickList.Picked) -> None:
        event.stop()
        if (finding := self.finding) and finding.places:
            self.post_message(self.Asked(finding.places[0]))

    def _show(self) -> None:
        finding = self.finding
        note = self.query_one(PickList).highlighted or ""
        path = only_path(self._check.report) if self._check else ""
        about = safe_text(note, 600) if finding is None else _about(finding, path)
        self.query_one("#check-about", Static).update(about)


def _row(finding: "Finding") -> PickRow:
    glyph, word = LEVELS[finding.level]
    count = f"{finding.count:,}" if finding.places else ""
    text = finding.text
    if finding.places:
        text = text.partition(": ")[0].removeprefix("rows that ")
    return PickRow(finding.code, (f"{glyph} {word}", count, text))


def _about(finding: "Finding", path: str) -> Content:
    style = _STYLES[finding.level]
    lines = [safe_text(finding.text, 200, style=style)]
    if finding.places:
        where = safe_text(places_text(finding.places, finding.count, path), 300)
        lines.append(where + Content.assemble(("   enter", "$accent bold"), " looks at the first"))
    if finding.meaning:
        lines.append(safe_text(finding.meaning, 300, style="$text-muted"))
    for fix in finding.fixes:
        line = Content.styled(FIX_KEYS[fix.verb], "$accent bold")
        lines.append(line + safe_text(f"  {fix.meaning}: {fix.override}", 300))
    return Content("\n").join(lines)
